"""advantage=unbiased: baselines that leave the objective's gradient exact."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.advantage.groups.normalization import NOTHING, broadcast, centred
from dqo.errors import ConfigError
from dqo.records import Estimates, Experience, Targets


class Unbiased:
    """(r_i - mean of the other rewards) + alpha * (c_i - b): the leave-one-out baseline of RLOO (arXiv 2402.14740) for
    the reward, and for the credit, which depends on the whole group, a baseline b that does not. Ours.

    b is the running mean of the credit over earlier steps; in the first step, for each group, the mean over the other
    groups of the batch (0.0 if there are none). No division by a standard deviation. The expected gradient is that of
    E[sum of r_i + alpha * log det(L + I)] for ``credit=dpp``, at k = 2 too.

    Invalid completions take part in nothing: 0.0. A completion that is valid alone has no baseline for its reward and
    nothing to differ from: 0.0 too, and it does not enter b.
    """

    def __init__(self, *, baseline_decay: float):
        if not 0 <= baseline_decay < 1:
            raise ConfigError(
                f"advantage.baseline_decay={baseline_decay}: 0 to below 1 is allowed; type advantage.baseline_decay=0.9"
            )
        self.baseline_decay = baseline_decay
        self.baseline: float | None = None  # nats for credit=dpp; None: nothing was seen yet

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        total, count = distributed.all_reduce_sum(_seen(experience))
        advantages_PK = self._advantages(experience, alpha, total=total, count=int(count))
        if count:
            old = total / count if self.baseline is None else self.baseline
            self.baseline = self.baseline_decay * old + (1 - self.baseline_decay) * total / count
        return broadcast(advantages_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """A group whose credits all lie beside the baseline has one, though they tie: too alike, or unlike."""
        total, count = _seen(experience)
        return bool((self._advantages(experience, alpha, total=total, count=count).abs() > NOTHING).any())

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.baseline = state["baseline"]

    def _advantages(
        self, experience: Experience, alpha: float, *, total: float, count: int
    ) -> Float[Tensor, "prompts k"]:
        """``total``, ``count``: of the credits of the step, over all processes."""
        compared_PK = _compared(experience.rewards.valid_PK)
        counts_P1 = compared_PK.sum(1, keepdim=True)
        # r_i minus the mean of the n - 1 others is n / (n - 1) times r_i minus the mean of all
        quality_PK = centred(experience.rewards.total_PK, compared_PK) * counts_P1 / (counts_P1 - 1).clamp(min=1)
        credits_PK = experience.credits_PK.double()
        diversity_PK = credits_PK - self._baselines(credits_PK, compared_PK, total, count)
        return (quality_PK + alpha * diversity_PK).masked_fill(~compared_PK, 0.0)

    def _baselines(
        self, credits_PK: Float[Tensor, "prompts k"], compared_PK: Bool[Tensor, "prompts k"], total: float, count: int
    ) -> Float[Tensor, "prompts 1"]:
        if self.baseline is not None:
            return torch.full_like(credits_PK[:, :1], self.baseline)
        sums_P1 = credits_PK.masked_fill(~compared_PK, 0.0).sum(1, keepdim=True)
        counts_P1 = compared_PK.sum(1, keepdim=True)
        return (total - sums_P1) / (count - counts_P1).clamp(min=1)


def _seen(experience: Experience) -> tuple[float, int]:
    """Sum and number of the credits that enter the baseline."""
    credits = experience.credits_PK[_compared(experience.rewards.valid_PK)]
    return float(credits.double().sum()), len(credits)


def _compared(valid_PK: Bool[Tensor, "prompts k"]) -> Bool[Tensor, "prompts k"]:
    """The valid completions of groups that have two of them or more."""
    return valid_PK & (valid_PK.sum(1, keepdim=True) > 1)
