"""advantage=joint: reward and credit are one score, and GRPO does the rest."""

from dqo.advantage.groups.normalization import ScaleRewards, TinySpread, broadcast, differ, normalised
from dqo.records import Estimates, Experience, Targets


class Joint:
    """s_i = r_i + alpha * c_i, minus the mean of the group's valid scores, divided as ``scale_rewards`` says.

    The sum is the paper's (arXiv 2509.04784, second-hand); the order and the division are our reading of it, on TRL's
    GRPO. Bias: the mean contains s_i, which shrinks the reward's gradient to (k-1)/k; for the credit, which depends on
    the whole group, it also bends the direction a little and shrinks more (0.64 of the norm at k = 4), to nothing at
    k = 2. Dividing by the group's standard deviation weighs prompts unequally. Invalid completions take part in
    nothing: 0.0, as a completion that is valid alone.
    """

    def __init__(self, *, scale_rewards: ScaleRewards):
        self.scale_rewards, self._tiny = scale_rewards, TinySpread()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        rewards = experience.rewards
        scores_PK = rewards.total_PK.double() + alpha * experience.credits_PK
        if self.scale_rewards == ScaleRewards.group and alpha > 0:
            self._tiny.look(scores_PK, rewards.valid_PK)
        return broadcast(normalised(scores_PK, rewards.valid_PK, self.scale_rewards), experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        rewards = experience.rewards
        return differ(rewards.total_PK.double() + alpha * experience.credits_PK, rewards.valid_PK)
