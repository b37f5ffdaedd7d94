"""Base class of advantages that replace the reward's deviation from the group's mean by another number."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from dqo.advantage.groups.credit_part import CreditKeys, ScaledCredit, credit_part
from dqo.advantage.groups.normalization import token_targets
from dqo.records import Estimates, Experience, Targets


class Reshaping(ScaledCredit, ABC):
    """A_i = quality_i + alpha * (c_i - the mean of the group's valid credits). A subclass says what ``quality`` is.

    Invalid completions get 0.0 and are left out. A group's only valid completion gets 0.0 too.
    """

    compares_within_group = True  # not with credit_baseline=none: config.validate looks at the key

    def __init__(self, credit: CreditKeys):
        super().__init__(credit.normalize_credit)
        self.credit_baseline = credit.credit_baseline

    @abstractmethod
    def quality(self, experience: Experience) -> Float[Tensor, "prompts k"]:
        """The reward's part, float64; exactly 0.0 where invalid, for a group's only valid completion, and where a group
        teaches nothing. Pure, not a collective."""

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for
        ``normalize_credit=spread``."""
        self._warn(experience)
        weight = self.credit_weight(experience, alpha)
        advantages_PK = self.quality(experience) + weight * credit_part(experience, self.credit_baseline)
        return token_targets(advantages_PK, experience.rollouts)

    def _warn(self, experience: Experience) -> None:
        """Warnings about a step; most options have none."""

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether a reward's part or, for alpha > 0, a credit's part is not 0. Not a collective."""
        if self.quality(experience).any():
            return True
        return alpha > 0 and bool(credit_part(experience, self.credit_baseline).any())
