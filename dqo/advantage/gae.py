"""advantage=gae: generalized advantage estimation with a critic's values, as in PPO (arXiv 1506.02438, 1707.06347)."""

from typing import Annotated

from pydantic import Field

from dqo.advantage.tokens.kl_penalty import KlKeys
from dqo.advantage.tokens.penalized import Penalized, ScoreKeys
from dqo.advantage.tokens.returns import estimated_advantages, whitened
from dqo.records import Estimates, Experience, Targets

Share = Annotated[float, Field(ge=0, le=1, examples=[0.95])]


class Gae(Penalized):
    """A_t = Σ_{s≥t} (gamma * lam)^(s-t) δ_s, δ_s = ρ_s + gamma * V_{s+1} - V_s, over a completion's tokens.

    A token's reward ρ_s is -kl_coef * KL_s; the last token's also has r_i + alpha * c_i. V_s, the critic's value,
    estimates the reward that is to come before token s is known; after the last token it is 0, of truncated completions
    too. The critic is trained on the returns A_t + V_t. ``whiten_advantages`` divides the advantages of the step's
    tokens by their standard deviation, after subtracting their mean; ``whiten_rewards`` does so with ρ before, and adds
    the mean again. All of it as TRL 1.12's PPOTrainer does, but for one thing: TRL pays a completion that ends by
    itself one position after its end token.

    Invalid completions get 0.0 and are left out.
    """

    needs_values = True

    def __init__(
        self,
        *,
        gamma: Share,
        lam: Share,
        kl: KlKeys,
        scores: ScoreKeys,
        whiten_rewards: bool,
        whiten_advantages: bool,
    ):
        super().__init__(kl, scores)
        self.gamma, self.lam = gamma, lam
        self.whiten_rewards, self.whiten_advantages = whiten_rewards, whiten_advantages

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages and returns (batch, tokens) for one step, 0.0 where not sampled. A collective."""
        assert estimates.values_BT is not None
        counted_BT = experience.counted_BT
        alpha = self.credit_weight(experience, alpha)
        scores_PK = self.scaled_rewards(experience) + alpha * experience.credits_PK
        rewards_BT = self.token_rewards(experience, estimates, scores_PK)
        if self.whiten_rewards:
            rewards_BT = whitened(rewards_BT, counted_BT, centred=False)
        values_BT = estimates.values_BT.double().masked_fill(~counted_BT, 0.0)
        advantages_BT = estimated_advantages(rewards_BT, values_BT, counted_BT, gamma=self.gamma, lam=self.lam)
        returns_BT = advantages_BT + values_BT
        if self.whiten_advantages:
            advantages_BT = whitened(advantages_BT, counted_BT, centred=True)
        return Targets(advantages_BT=advantages_BT.float(), returns_BT=returns_BT.float())

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether a completion is valid: with equal scores values and KL still teach. Not a collective."""
        return bool(experience.rewards.valid_PK.any())
