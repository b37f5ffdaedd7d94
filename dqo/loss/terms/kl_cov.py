"""Term ``kl_cov``: the tokens that would take most entropy from the policy are held near the policy before the step."""

from collections.abc import Mapping
from typing import Annotated

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError
from dqo.loss.covariance.tokens import covariances, largest_tokens
from dqo.ranges import Count, CountOrZero
from dqo.records import Estimates, Experience, LossInputs, Targets


class KlCov:
    """KL-Cov (arXiv 2505.22617), after verl's code: + coefficient * |log ratio|, ratio = policy / old policy, at the
    ``share`` of all tokens (at least one) with the largest covariance of advantage and log-probability.

    verl chooses anew in each micro-batch, here it is once a step, over all ranks, by the policy before the step's first
    update. verl does not clip any ratio; here ``epsilon`` does, also at these tokens. At a ratio of 1 the term has no
    gradient, so it needs a second iteration, or rows sampled by older weights.
    """

    names = ("kl_cov/log_ratio",)
    needs_old_logprobs = True

    def __init__(
        self,
        *,
        share: Annotated[float, Field(gt=0, le=1, examples=[2e-4])],
        coefficient: Annotated[float, Field(gt=0, examples=[1.0])],
        num_iterations: Count,
        ahead: CountOrZero,
    ):
        if num_iterations == 1 and not ahead:
            raise ConfigError(
                "learner.num_iterations=1: the term kl_cov holds the policy near the one before the step, and in a "
                "step's first iteration they are the same; type learner.num_iterations=2, or loss=clip_cov"
            )
        self.share, self.coefficient = share, coefficient

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Bool[Tensor, "batch tokens"]]:
        """``kl_cov``: True where the term acts. A collective."""
        found = covariances(experience, estimates, targets)
        return {"kl_cov": largest_tokens(found, found.number(self.share))}

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The term, and the mean of |log ratio| where it acts."""
        held_N = inputs.marks["kl_cov"].to(inputs.logprobs_N.dtype)
        distances_N = (inputs.logprobs_N - inputs.old_logprobs_N).abs() * held_N
        loss = self.coefficient * (inputs.weights_N * distances_N).sum()
        return loss, {"kl_cov/log_ratio": (distances_N.detach().sum(), held_N.sum())}
