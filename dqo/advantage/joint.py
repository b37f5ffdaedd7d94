"""advantage=joint: reward and credit are added to one score, then normalized as in GRPO."""

from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards, TinySpreadWarning, normalized, token_targets
from dqo.advantage.groups.reward_scale import NormalizeReward, ScaledScores
from dqo.metrics.ties import score_deviations
from dqo.records import Estimates, Experience, Targets


class Joint(ScaledScores):
    """A_i = s_i minus the mean of the group's valid scores, divided as ``scale_rewards`` says; s_i = r_i + alpha * c_i.

    The sum is the paper's (arXiv 2509.04784, second-hand); the order and the division are our reading of it, on TRL's
    GRPO. Bias: the mean contains s_i, which shrinks the reward's gradient to (k-1)/k. The credit depends on the whole
    group: its gradient shrinks more (0.64 of the norm at k = 4, 0 at k = 2) and changes direction a little. Dividing by
    the group's standard deviation gives prompts unequal weights. With ``normalize_credit=spread`` c_i is divided by the
    run's mean spread of credits, so that alpha means the same for every k, kernel and encoder; with
    ``normalize_reward=running`` r_i is in standard deviations from the mean of the run's rewards, so that alpha means
    the same for every reward.

    Invalid completions get 0.0 and are left out of mean and standard deviation. A group's only valid completion gets
    0.0 too.
    """

    compares_within_group = True

    def __init__(
        self,
        *,
        scale_rewards: ScaleRewards,
        normalize_credit: NormalizeCredit = NormalizeCredit.none,
        normalize_reward: NormalizeReward = NormalizeReward.none,
    ):
        super().__init__(normalize_reward, normalize_credit)
        self.scale_rewards, self._warning = scale_rewards, TinySpreadWarning()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for ``scale_rewards=batch``,
        ``normalize_credit=spread`` and ``normalize_reward=running``."""
        alpha = self.credit_weight(experience, alpha)
        rewards, total_PK = experience.rewards, self.scaled_rewards(experience)
        deviations_PK = score_deviations(total_PK, experience.credits_PK, rewards.valid_PK, alpha)
        if self.scale_rewards == ScaleRewards.group and alpha > 0:
            self._warning.check(deviations_PK, rewards.valid_PK)
        scores_PK = total_PK + alpha * experience.credits_PK
        advantages_PK = normalized(deviations_PK, scores_PK, rewards.valid_PK, self.scale_rewards)
        return token_targets(advantages_PK, experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the valid scores s_i of any group differ by more than rounding. Not a collective."""
        rewards = experience.rewards
        return bool(score_deviations(rewards.total_PK, experience.credits_PK, rewards.valid_PK, alpha).any())
