"""What a learner is given, as Protocols: any loss and any optimizer will do."""

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import Parameter


@runtime_checkable
class Loss(Protocol):
    """A sum over sampled tokens, so that micro-batches add up to the step."""

    @property
    def needs_reference(self) -> bool: ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the means that a call returns, whatever the data."""
        ...

    def token_weights(
        self, sampled_BT: Bool[Tensor, "batch tokens"], valid_B: Bool[Tensor, " batch"], *, rows: int, tokens: int
    ) -> Float[Tensor, "batch tokens"]:
        """``rows`` and ``tokens`` are the step's totals, over all processes."""
        ...

    def __call__(
        self,
        *,
        logprobs_N: Float[Tensor, " sampled"],
        old_logprobs_N: Float[Tensor, " sampled"],
        sampler_logprobs_N: Float[Tensor, " sampled"],
        ref_logprobs_N: Float[Tensor, " sampled"] | None,
        advantages_N: Float[Tensor, " sampled"],
        weights_N: Float[Tensor, " sampled"],
        rows_N: Int[Tensor, " sampled"],
    ) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """The loss, and what to report: (sum, count) of each mean, (value, anything) of a name in …/min or …/max."""
        ...


@runtime_checkable
class Optim(Protocol):
    """Makes the optimizer; its learning rate is a function of the step alone."""

    max_grad_norm: float | None

    def make(self, parameters: Iterable[tuple[str, Parameter]]) -> torch.optim.Optimizer: ...

    def rate(self, step: int) -> float: ...
