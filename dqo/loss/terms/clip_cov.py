"""Term ``clip_cov``: a few tokens that would take most entropy from the policy get no gradient."""

from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo import distributed
from dqo.capabilities import DROPPED
from dqo.errors import ConfigError
from dqo.loss.covariance.tokens import covariances, random_tokens
from dqo.ranges import Seed
from dqo.records import Estimates, Experience, LossInputs, Targets


class ClipCov:
    """Clip-Cov (arXiv 2505.22617), after verl's code: of the tokens whose covariance of advantage and log-probability
    lies between ``low`` and ``high``, a random ``share`` of all tokens (at least one) is left out of the policy's loss.

    verl chooses anew in each micro-batch; here it is once a step, over all ranks, by the policy before the step's first
    update. verl leaves tokens out of the choice that are clipped already.
    """

    names = ("clip_cov/dropped",)
    needs_old_logprobs = True
    only_advantages = True  # adds nothing to a completion without an advantage

    def __init__(
        self,
        *,
        share: Annotated[float, Field(gt=0, le=1, examples=[2e-4])],
        low: float,
        high: float,
        seed: Seed,
    ):
        if low >= high:
            raise ConfigError(
                f"loss.terms.clip_cov.low={low:g}: less than high={high:g} is needed; type loss.terms.clip_cov.low=1.0 "
                "loss.terms.clip_cov.high=5.0"
            )
        self.share, self.low, self.high, self.seed = share, low, high, seed
        self.dropped, self.tokens = 0, 0  # in the last step, on all ranks

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Bool[Tensor, "batch tokens"]]:
        """``dropped``: True where a token is left out. A collective."""
        found = covariances(experience, estimates, targets)
        between_BT = found.counted_BT & (found.values_BT > self.low) & (found.values_BT < self.high)
        positions = [prompt.position for prompt in experience.rollouts.prompts]
        dropped_BT = random_tokens(between_BT, found.number(self.share), seed=self.seed, positions=positions)
        (dropped,) = distributed.all_reduce_sum([int(dropped_BT.sum())])
        self.dropped, self.tokens = int(dropped), found.tokens
        return {DROPPED: dropped_BT}

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """0: nothing is added; and the share of the step's tokens that are left out."""
        share = torch.tensor(float(self.dropped)), torch.tensor(float(self.tokens))
        return inputs.logprobs_N.new_zeros(()), {"clip_cov/dropped": share}
