"""Base class of advantages that reward each token: minus its KL to the reference, and at the last token the score."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.reward_scale import NormalizeReward, ScaledScores
from dqo.advantage.tokens.kl_penalty import KlKeys, KlPenalty
from dqo.advantage.tokens.returns import at_last_token
from dqo.records import Estimates, Experience


@dataclass(frozen=True, kw_only=True)
class ScoreKeys:
    """The keys of what is added to a completion's score."""

    normalize_credit: NormalizeCredit = NormalizeCredit.none
    normalize_reward: NormalizeReward = NormalizeReward.none


class Penalized(ScaledScores):
    """Rewards of tokens: -kl_coef * KL, and at the last one the completion's score."""

    def __init__(self, kl: KlKeys, scores: ScoreKeys):
        super().__init__(scores.normalize_reward, scores.normalize_credit)
        self.kl = KlPenalty(kl)
        self.needs_reference = self.needs_old_logprobs = self.kl.is_on

    def token_rewards(
        self, experience: Experience, estimates: Estimates, scores_PK: Float[Tensor, "prompts k"]
    ) -> Float[Tensor, "batch tokens"]:
        """Float64, 0.0 where the update learns nothing. Adapts the coefficient. A collective."""
        return self.kl.rewards(experience, estimates) + at_last_token(scores_PK, experience.counted_BT)

    def metrics(self) -> Mapping[str, float]:
        """As ``Reporting.metrics``: the step's KL and its coefficient."""
        return self.kl.metrics()

    def state_dict(self) -> dict[str, Any]:
        """What rewards and credits are divided by, and the adaptive coefficient, JSON-serializable; empty without."""
        return {**super().state_dict(), **self.kl.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.kl.load_state_dict(state)
