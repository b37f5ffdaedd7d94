"""Term ``entropy``, adaptive: a bonus that keeps the policy's entropy near a target."""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError
from dqo.loss.entropies.step import sampled_entropy
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.ranges import Share
from dqo.records import Estimates, Experience, LossInputs, Targets

Coefficient = Annotated[float, Field(ge=0, examples=[0.01])]


class AdaptiveEntropy(Entropy):
    """``Entropy`` with a coefficient that rises by ``step`` before an update if the policy's entropy is below
    ``target``, falls by as much if it is above, and stays within its bounds. Above the target there is no bonus.

    Skywork-OR1's adaptive entropy control (arXiv 2505.22312) and TRL's ``use_adaptive_entropy``, but that the entropy
    is that of this step's samples and not of the step before, estimated from the sampler's log-probabilities over all
    ranks (``sampled_entropy``), at no cost.
    """

    def __init__(
        self,
        *,
        coefficient: Coefficient,
        target: Annotated[float, Field(gt=0, examples=[0.2])],
        step: Annotated[float, Field(gt=0, examples=[0.005])],
        min_coefficient: Coefficient,
        max_coefficient: Coefficient,
        tokens: Tokens,
        top_entropy_quantile: Share | None,
    ):
        super().__init__(coefficient=coefficient, tokens=tokens, top_entropy_quantile=top_entropy_quantile)
        if not min_coefficient <= coefficient <= max_coefficient:
            raise ConfigError(
                f"loss.terms.entropy.coefficient={coefficient:g}: a number from min_coefficient={min_coefficient:g} to "
                f"max_coefficient={max_coefficient:g} is needed; type loss.terms.entropy.coefficient=0.01 "
                "loss.terms.entropy.min_coefficient=0.0 loss.terms.entropy.max_coefficient=0.1"
            )
        self.target, self.step, self.bounds = target, step, (min_coefficient, max_coefficient)
        self.measured = float("nan")  # nats, of the last step

    @property
    def applied(self) -> float:
        """The coefficient; 0.0 while the entropy is above the target."""
        return self.coefficient if self.measured <= self.target else 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the metrics that a call returns."""
        return (*super().names, "entropy_bonus/measured")

    def marks(
        self, experience: Experience, estimates: Estimates, targets: Targets
    ) -> Mapping[str, Bool[Tensor, "batch tokens"]]:
        """As ``Entropy.marks``, and adapts the coefficient. A collective."""
        self.measured = sampled_entropy(experience)
        rise = self.step * ((self.measured < self.target) - (self.measured > self.target))  # 0 for NaN
        least, most = self.bounds
        self.coefficient = min(max(self.coefficient + rise, least), most)
        return super().marks(experience, estimates, targets)

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """As ``Entropy``, with the entropy that the coefficient was adapted to."""
        loss, means = super().__call__(inputs)
        return loss, {**means, "entropy_bonus/measured": (torch.tensor(self.measured), torch.ones(()))}

    def state_dict(self) -> dict[str, Any]:
        """The coefficient of the last step."""
        return {"coefficient": self.coefficient}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.coefficient = state["coefficient"]
