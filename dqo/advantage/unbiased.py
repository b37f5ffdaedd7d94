"""advantage=unbiased: baselines that leave the objective's gradient exact."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo import distributed
from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.normalization import token_targets
from dqo.advantage.groups.reward_scale import NormalizeReward, ScaledScores
from dqo.metrics.ties import TIE_TOLERANCE, group_deviations
from dqo.records import Estimates, Experience, Targets


class Unbiased(ScaledScores):
    """A_i = (r_i - mean of the other rewards) + alpha * (c_i - b). Ours.

    The reward has the leave-one-out baseline of RLOO (arXiv 2402.14740). The credit depends on the whole group, so its
    baseline b must not: b is the running mean of the credit over earlier steps; in the first step, for each group, the
    mean over the other groups of the batch (0.0 if there are none). No division by a standard deviation. With
    ``loss=dr_grpo``, whose tokens have constant weights, the expected gradient is that of E[sum of r_i + alpha * log
    det(L + I)] for ``credit=dpp``, but for a constant factor, at k = 2 too. Limits: it holds for fresh samples (one
    update a step, ``ahead=0``), without ``redraws`` and with no completion masked; masking by content, such as of
    truncated completions, follows no objective over the valid ones. In the first step of a run with one group b is 0.
    ``normalize_credit=spread`` and ``normalize_reward=running`` change the weights of credit and reward from step to
    step, and in the first step by the group's own.

    Invalid completions get 0.0 and are left out. A group's only valid completion gets 0.0 too, since its reward has no
    baseline, and its credit does not enter b.
    """

    def __init__(
        self,
        *,
        baseline_decay: Annotated[float, Field(ge=0, lt=1, examples=[0.9])],
        normalize_credit: NormalizeCredit = NormalizeCredit.none,
        normalize_reward: NormalizeReward = NormalizeReward.none,
    ):
        super().__init__(normalize_reward, normalize_credit)
        self.baseline_decay = baseline_decay
        self.baseline: float | None = None  # nats for credit=dpp; None: no credit so far

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled; then updates the baseline. A collective."""
        total, count = distributed.all_reduce_sum(_credit_sum(experience))
        weight = self.credit_weight(experience, alpha)
        rewards_PK = self.scaled_rewards(experience)
        advantages_PK = self._advantages(experience, rewards_PK, weight, total=total, count=int(count))
        if count:
            old = total / count if self.baseline is None else self.baseline
            self.baseline = self.baseline_decay * old + (1 - self.baseline_decay) * total / count
        return token_targets(advantages_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether any advantage is not 0. Equal credits have a signal if they differ from the baseline. Does not update
        the baseline; not a collective."""
        total, count = _credit_sum(experience)
        rewards_PK = experience.rewards.total_PK
        return bool(self._advantages(experience, rewards_PK, alpha, total=total, count=count).any())

    def state_dict(self) -> dict[str, Any]:
        """The running means, JSON-serializable."""
        return {"baseline": self.baseline, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.baseline = state["baseline"]

    def _advantages(
        self, experience: Experience, rewards_PK: Float[Tensor, "prompts k"], alpha: float, *, total: float, count: int
    ) -> Float[Tensor, "prompts k"]:
        """``total``, ``count``: sum and number of the step's credits over all ranks (see ``_credit_sum``)."""
        compared_PK = _compared(experience.rewards.valid_PK)
        counts_P1 = compared_PK.sum(1, keepdim=True)
        # r_i - mean of the n - 1 other rewards = n / (n - 1) * (r_i - mean of all n rewards)
        quality_PK = group_deviations(rewards_PK, compared_PK) * counts_P1 / (counts_P1 - 1).clamp(min=1)
        credits_PK = experience.credits_PK.double()
        diversity_PK = credits_PK - self._baselines(credits_PK, compared_PK, total, count)
        rounding_PK = TIE_TOLERANCE * credits_PK.abs().clamp(min=1)
        diversity_PK = diversity_PK.masked_fill(diversity_PK.abs() <= rounding_PK, 0.0)
        return (quality_PK + alpha * diversity_PK).masked_fill(~compared_PK, 0.0)

    def _baselines(
        self, credits_PK: Float[Tensor, "prompts k"], compared_PK: Bool[Tensor, "prompts k"], total: float, count: int
    ) -> Float[Tensor, "prompts 1"]:
        if self.baseline is not None:
            return torch.full_like(credits_PK[:, :1], self.baseline)
        sums_P1 = credits_PK.masked_fill(~compared_PK, 0.0).sum(1, keepdim=True)
        counts_P1 = compared_PK.sum(1, keepdim=True)
        return (total - sums_P1) / (count - counts_P1).clamp(min=1)


def _credit_sum(experience: Experience) -> tuple[float, int]:
    """(sum, number) of the credits that enter the baseline."""
    credits = experience.credits_PK[_compared(experience.rewards.valid_PK)]
    return float(credits.double().sum()), len(credits)


def _compared(valid_PK: Bool[Tensor, "prompts k"]) -> Bool[Tensor, "prompts k"]:
    """The valid completions of groups that have two of them or more."""
    return valid_PK & (valid_PK.sum(1, keepdim=True) > 1)
