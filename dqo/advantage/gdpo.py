"""advantage=gdpo: each part of the reward, and the credit, is normalized on its own (GDPO, arXiv 2601.05242)."""

from collections.abc import Iterator

from jaxtyping import Bool, Float
from torch import Tensor

from dqo.advantage.groups.normalization import (
    EPSILON,
    ScaleRewards,
    TinySpreadWarning,
    normalized,
    step_std,
    token_targets,
)
from dqo.capabilities import Weighing
from dqo.metrics.ties import credit_deviations, group_deviations
from dqo.records import Estimates, Experience, Rewards, Targets
from dqo.stages import Reward


class Gdpo:
    """A_i = (Σ_p w_p norm(r_p)_i + alpha * norm(c)_i) / std. norm subtracts the mean of the group's values and divides
    by their standard deviation plus 1e-4; std is that of all sums of the step, plus 1e-4.

    ``separate`` with ``scale_rewards=group`` is this for a reward of one part, without the last division. The parts r_p
    and weights w_p are those of ``reward=weighted`` and ``reward=python``; any other reward is one part of weight 1.
    Where a part is NaN it is left out. The paper also subtracts the step's mean, which is 0 here: every part has the
    mean 0 in each group. Bias: that of ``separate``.

    Invalid completions get 0.0 and are left out. A group's only valid completion gets 0.0 too.
    """

    compares_within_group = True

    def __init__(self, reward: Reward):
        self._weights = dict(reward.part_weights) if isinstance(reward, Weighing) else None
        self._warning = TinySpreadWarning("advantage=gdpo", "advantage=joint")

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective."""
        valid_PK = experience.rewards.valid_PK
        diversity_PK = credit_deviations(experience.credits_PK, valid_PK)
        if alpha > 0:
            self._warning.check(diversity_PK, valid_PK)
        sums_PK = alpha * normalized(diversity_PK, diversity_PK, valid_PK, ScaleRewards.group)
        for weight, deviations_PK, applies_PK in self._parts(experience.rewards):
            sums_PK = sums_PK + weight * normalized(deviations_PK, deviations_PK, applies_PK, ScaleRewards.group)
        return token_targets(sums_PK / (step_std(sums_PK, valid_PK) + EPSILON), experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the values of a part with a weight or, for alpha > 0, the credits of any group differ by more than
        rounding. Not a collective."""
        rewards = experience.rewards
        if any(weight != 0 and bool(deviations_PK.any()) for weight, deviations_PK, _ in self._parts(rewards)):
            return True
        return alpha > 0 and bool(credit_deviations(experience.credits_PK, rewards.valid_PK).any())

    def _parts(self, rewards: Rewards) -> Iterator[tuple[float, Float[Tensor, "prompts k"], Bool[Tensor, "prompts k"]]]:
        """Weight, deviations from the group's mean, and where the part applies."""
        if self._weights is None:
            yield 1.0, group_deviations(rewards.total_PK, rewards.valid_PK), rewards.valid_PK
            return
        for name, weight in self._weights.items():
            applies_PK = rewards.valid_PK & ~rewards.parts[name].isnan()
            yield weight, group_deviations(rewards.parts[name], applies_PK), applies_PK
