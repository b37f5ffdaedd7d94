"""advantage=reinforce_pp: returns of single tokens, normalized over the step, without a critic (arXiv 2501.03262)."""

from enum import StrEnum
from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.advantage.tokens.kl_penalty import KlKeys
from dqo.advantage.tokens.penalized import Penalized, ScoreKeys
from dqo.advantage.tokens.returns import estimated_advantages, whitened
from dqo.metrics.ties import score_deviations
from dqo.records import Estimates, Experience, Targets


class ScoreBaseline(StrEnum):
    """What is subtracted from a completion's score before the step's mean."""

    none = "none"  # nothing: REINFORCE++
    group = "group"  # the mean of the group's valid scores: REINFORCE++-baseline


class ReinforcePp(Penalized):
    """A_t = (R_t - mean) / standard deviation, over the tokens of the step; R_t = Σ_{s≥t} gamma^(s-t) ρ_s.

    A token's reward ρ_s is -kl_coef * KL_s; the last token's also has r_i + alpha * c_i, with ``baseline=group`` minus
    the mean of the group's. It is ``gae`` with lam = 1 and values of 0.

    Invalid completions get 0.0 and are left out; with ``baseline=group`` a group's only valid completion has the score
    0.0.
    """

    def __init__(
        self,
        *,
        baseline: ScoreBaseline,
        gamma: Annotated[float, Field(ge=0, le=1, examples=[1.0])],
        kl: KlKeys,
        scores: ScoreKeys,
    ):
        super().__init__(kl, scores)
        self.baseline, self.gamma = baseline, gamma

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective."""
        counted_BT = experience.counted_BT
        scores_PK = self._scores(experience, self.scaled_rewards(experience), self.credit_weight(experience, alpha))
        rewards_BT = self.token_rewards(experience, estimates, scores_PK)
        values_BT = rewards_BT.new_zeros(rewards_BT.shape)
        returns_BT = estimated_advantages(rewards_BT, values_BT, counted_BT, gamma=self.gamma, lam=1.0)
        return Targets(advantages_BT=whitened(returns_BT, counted_BT, centred=True).float())

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the group's scores differ by more than rounding; with ``baseline=none`` whether any completion is
        valid, since equal scores of one group still differ from other groups' scores. Not a collective."""
        if self.baseline == ScoreBaseline.none:
            return bool(experience.rewards.valid_PK.any())
        return bool(self._scores(experience, experience.rewards.total_PK, alpha).any())

    def _scores(
        self, experience: Experience, rewards_PK: Float[Tensor, "prompts k"], alpha: float
    ) -> Float[Tensor, "prompts k"]:
        if self.baseline == ScoreBaseline.none:
            return rewards_PK.double() + alpha * experience.credits_PK
        return score_deviations(rewards_PK, experience.credits_PK, experience.rewards.valid_PK, alpha)
