"""advantage=separate: reward and credit are normalized separately, then added."""

from dqo.advantage.groups.normalization import (
    ScaleRewards,
    TinySpreadWarning,
    has_differences,
    normalized_deviations,
    token_targets,
)
from dqo.records import Estimates, Experience, Targets


class Separate:
    """A_i = norm(r)_i + alpha * norm(c)_i. norm subtracts the mean of the group's valid values and divides as
    ``scale_rewards`` says.

    Ours. With a division, alpha weighs diversity against quality in standard deviations, whatever the reward's scale.
    Bias: the same as ``joint``. In addition the division gives the credit the same size in every group, even if the
    completions hardly differ or are wrong: without a gate it drove a sentence task to 0 % correct.

    Invalid completions get 0.0 and are left out of mean and standard deviation. A group's only valid completion gets
    0.0 too.
    """

    def __init__(self, *, scale_rewards: ScaleRewards):
        self.scale_rewards, self._warning = scale_rewards, TinySpreadWarning()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for ``scale_rewards=batch``."""
        rewards = experience.rewards
        if self.scale_rewards == ScaleRewards.group and alpha > 0:
            self._warning.check(experience.credits_PK, rewards.valid_PK)
        quality_PK = normalized_deviations(rewards.total_PK, rewards.valid_PK, self.scale_rewards)
        diversity_PK = normalized_deviations(experience.credits_PK, rewards.valid_PK, self.scale_rewards)
        return token_targets(quality_PK + alpha * diversity_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the valid rewards, or for alpha > 0 the credits, of any group differ. Not a collective."""
        rewards = experience.rewards
        return has_differences(rewards.total_PK, rewards.valid_PK) or (
            alpha > 0 and has_differences(experience.credits_PK, rewards.valid_PK)
        )
