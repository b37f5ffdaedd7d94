"""advantage=flowrl: probabilities in proportion to exp(reward) (FlowRL, arXiv 2509.15207)."""

from typing import Annotated

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.advantage.groups.credit_part import NormalizeCredit, ScaledCredit
from dqo.advantage.groups.normalization import ScaleRewards, normalized, token_targets
from dqo.metrics.ties import group_deviations, score_deviations
from dqo.records import Estimates, Experience, Rollouts, Targets


class FlowRL(ScaledCredit):
    """A_i = -2 * weight * δ_i, δ_i = log Z + mean log π(y_i) - flow_beta * s_i - mean log π_ref(y_i); s_i = r_i + alpha
    * c_i, minus the group's mean and divided as ``scale_rewards`` says.

    The means of log-probabilities are over a completion's tokens. FlowRL minimizes weight * δ², whose gradient on fresh
    samples is that of a policy gradient with these advantages and ``loss.loss_type=grpo``, which divides by a
    completion's length. log Z is the value at which δ has the mean 0 in the group (ours, after VarGrad); the paper
    learns a network for it. The paper's importance weight, at most 10, is the clipped ratio of the loss here. π is the
    policy before the update, or the sampler where the learner does not compute the policy's log-probabilities.

    Invalid completions get 0.0 and are left out. A group's only valid completion gets 0.0 too.
    """

    compares_within_group = True
    needs_reference = True

    def __init__(
        self,
        *,
        flow_beta: Annotated[float, Field(gt=0, examples=[15.0])],
        weight: Annotated[float, Field(gt=0, examples=[1.0])],
        scale_rewards: ScaleRewards,
        normalize_credit: NormalizeCredit,
    ):
        super().__init__(normalize_credit)
        self.flow_beta, self.weight, self.scale_rewards = flow_beta, weight, scale_rewards

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        """Advantages (batch, tokens) for one step, 0.0 where not sampled. A collective for ``scale_rewards=batch`` and
        for ``normalize_credit=spread``."""
        alpha, rewards = self.credit_weight(experience, alpha), experience.rewards
        scores_PK = rewards.total_PK.double() + alpha * experience.credits_PK
        deviations_PK = score_deviations(rewards.total_PK, experience.credits_PK, rewards.valid_PK, alpha)
        wanted_PK = self.flow_beta * normalized(deviations_PK, scores_PK, rewards.valid_PK, self.scale_rewards)
        moved_PK = group_deviations(_mean_log_ratios(experience.rollouts, estimates), rewards.valid_PK)
        return token_targets(2 * self.weight * (wanted_PK - moved_PK), experience.rollouts)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        """Whether any group has two valid completions: with equal scores their log-probabilities can differ, too. Not a
        collective."""
        return bool((experience.rewards.valid_PK.sum(1) > 1).any())


def _mean_log_ratios(rollouts: Rollouts, estimates: Estimates) -> Float[Tensor, "prompts k"]:
    """Mean over a completion's tokens of log π - log π_ref, float64; 0.0 for a completion without tokens."""
    assert estimates.ref_logprobs_BT is not None
    old_BT = estimates.old_logprobs_BT
    logprobs_BT = rollouts.logprobs_BT if old_BT is None else old_BT
    return rollouts.token_means(logprobs_BT.double() - estimates.ref_logprobs_BT)
