"""advantage=separate: reward and credit are normalized separately, then added."""

from jaxtyping import Float
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditBaseline, CreditKeys, ScaledCredit, credit_part
from dqo.advantage.groups.normalization import ScaleRewards, TinySpreadWarning, normalized, token_targets
from dqo.metrics.ties import group_deviations
from dqo.records import Estimates, Experience, Targets

PLAIN = CreditKeys()


class Separate(ScaledCredit):
    """A_i = norm(r)_i + alpha * norm(c)_i. norm subtracts the mean of the group's valid values and divides as
    ``scale_rewards`` says.

    Ours. With a division, alpha weighs diversity against quality in standard deviations, whatever the reward's scale.
    Bias: the same as ``joint``. In addition the division gives the credit the same size in every group, even if the
    completions hardly differ or are wrong: without a gate it drove a sentence task to 0 % correct.

    With ``credit_baseline=none`` the credit's part is alpha * c_i as it is: neither centred nor divided (SetPO, arXiv
    2602.01062). ``normalize_credit=spread`` divides c_i by the run's mean spread of credits; where a standard deviation
    divides it, this is refused.

    Invalid completions get 0.0 and are left out of mean and standard deviation. A group's only valid completion gets
    0.0 too.
    """

    compares_within_group = True  # not with credit_baseline=none: config.validate looks at the key

    def __init__(self, *, scale_rewards: ScaleRewards, credit: CreditKeys = PLAIN):
        super().__init__(credit.normalize_credit)
        self.scale_rewards, self.credit_baseline = scale_rewards, credit.credit_baseline
        self._divides_credit = scale_rewards != ScaleRewards.none and credit.credit_baseline == CreditBaseline.group
        self._warning = TinySpreadWarning()

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for ``scale_rewards=batch`` and
        for ``normalize_credit=spread``."""
        alpha = self.credit_weight(experience, alpha)
        total_PK, valid_PK = experience.rewards.total_PK, experience.rewards.valid_PK
        quality_PK = normalized(group_deviations(total_PK, valid_PK), total_PK, valid_PK, self.scale_rewards)
        return token_targets(quality_PK + alpha * self._diversity(experience, alpha), experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether the valid rewards, or for alpha > 0 the credits, of any group differ by more than rounding. Not a
        collective."""
        rewards = experience.rewards
        quality_PK = group_deviations(rewards.total_PK, rewards.valid_PK)
        return bool(quality_PK.any()) or (alpha > 0 and bool(credit_part(experience, self.credit_baseline).any()))

    def _diversity(self, experience: Experience, alpha: float) -> Float[Tensor, "prompts k"]:
        credits_PK, valid_PK = experience.credits_PK, experience.rewards.valid_PK
        diversity_PK = credit_part(experience, self.credit_baseline)
        if not self._divides_credit:
            return diversity_PK
        if self.scale_rewards == ScaleRewards.group and alpha > 0:
            self._warning.check(diversity_PK, valid_PK)
        return normalized(diversity_PK, credits_PK, valid_PK, self.scale_rewards)
