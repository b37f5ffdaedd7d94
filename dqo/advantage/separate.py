"""advantage=separate: reward and credit are normalised apart, then summed."""

from dqo.advantage.groups.normalization import ScaleRewards, TinySpread, broadcast, differ, normalised
from dqo.records import Estimates, Experience, Targets


class Separate:
    """norm(r)_i + alpha * norm(c)_i; norm: minus the mean of the group's valid values, divided as ``scale_rewards``
    says.

    Ours. With a division, alpha weighs diversity against quality in standard deviations, whatever the reward's scale.
    Bias: as ``joint``, and the division gives the credit the same size in every group, however little its completions
    differ and however wrong they are: without a gate it drove a sentence task to 0 % correct. Invalid completions
    take part in nothing: 0.0, as a completion that is valid alone.
    """

    def __init__(self, *, scale_rewards: ScaleRewards):
        self.scale_rewards, self._tiny = scale_rewards, TinySpread()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        rewards = experience.rewards
        if self.scale_rewards == ScaleRewards.group and alpha > 0:
            self._tiny.look(experience.credits_PK, rewards.valid_PK)
        quality_PK = normalised(rewards.total_PK, rewards.valid_PK, self.scale_rewards)
        diversity_PK = normalised(experience.credits_PK, rewards.valid_PK, self.scale_rewards)
        return broadcast(quality_PK + alpha * diversity_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        rewards = experience.rewards
        return differ(rewards.total_PK, rewards.valid_PK) or (
            alpha > 0 and differ(experience.credits_PK, rewards.valid_PK)
        )
