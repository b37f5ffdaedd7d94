"""advantage=separate: reward and credit are normalized separately, then added."""

from dqo.advantage.groups.normalization import ScaleRewards, TinySpreadWarning, normalized, token_targets
from dqo.metrics.ties import credit_deviations, group_deviations
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

    compares_within_group = True

    def __init__(self, *, scale_rewards: ScaleRewards):
        self.scale_rewards, self._warning = scale_rewards, TinySpreadWarning()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for ``scale_rewards=batch``."""
        total_PK, credits_PK = experience.rewards.total_PK, experience.credits_PK
        valid_PK, scale = experience.rewards.valid_PK, self.scale_rewards
        diversity_PK = credit_deviations(credits_PK, valid_PK)
        if scale == ScaleRewards.group and alpha > 0:
            self._warning.check(diversity_PK, valid_PK)
        quality_PK = normalized(group_deviations(total_PK, valid_PK), total_PK, valid_PK, scale)
        diversity_PK = normalized(diversity_PK, credits_PK, valid_PK, scale)
        return token_targets(quality_PK + alpha * diversity_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the valid rewards, or for alpha > 0 the credits, of any group differ by more than rounding. Not a
        collective."""
        rewards = experience.rewards
        quality_PK = group_deviations(rewards.total_PK, rewards.valid_PK)
        diversity_PK = alpha * credit_deviations(experience.credits_PK, rewards.valid_PK)
        return bool((quality_PK != 0).any() or (diversity_PK != 0).any())
