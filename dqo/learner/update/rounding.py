"""Training in bfloat16 with fp32 sums: parameters hold bfloat16 numbers, and the 16 bits that each of them lost are
kept for the next optimizer step."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from dqo.models.rounding import chunk_size, rounded, thresholds
from dqo.stages import Weights

log = logging.getLogger("dqo")
UNSEEN = 0.5  # a smaller share of an update is worth a warning
SAMPLED = 64  # of this many weights one is looked at for ``seen``
SAMPLE_SIZES = 2**13, 2**22  # of one tensor: at least, at most


class Rounding(StrEnum):
    """How weights become bfloat16."""

    DITHERED = "dithered"  # up or down, by a threshold of each weight (models.rounding)
    NEAREST = "nearest"


class RoundedSteps:
    """Hooks of an optimizer whose parameters are float32. Before its step they are made exact, after it they are
    rounded. So a copy of the parameters, such as DeepSpeed's in bfloat16 or an engine's, is exactly what the model
    computes with. ``rounding`` None: nothing is rounded here.

    Exact and rounded numbers determine one another, so a checkpoint needs the exact ones alone. Memory: 2 bytes a
    parameter. Works for any engine that calls ``step`` of the optimizer, on parameters or on flat parts of them.
    """

    def __init__(self, rounding: Rounding | None):
        self.rounding = rounding
        self._numbers: dict[Tensor, int] = {}  # of parameters, in an order that a resumed run repeats
        self._lost: dict[Tensor, Tensor] = {}  # by parameter; a missing one has lost nothing
        self._before: dict[Tensor, tuple[Tensor, Tensor]] = {}  # samples of computing and of exact weights
        self._warned = False
        self._seen: list[Tensor] = []  # (⟨change of computing weights, update⟩, ‖update‖²)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """To be called once per optimizer, before its first step."""
        self.number(p for group in optimizer.param_groups for p in group["params"])
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def number(self, parameters: Iterable[Tensor]) -> None:
        """Gives parameters their numbers now: the first of several optimizers to step may be another in a resumed
        run."""
        for parameter in parameters:
            self._numbers.setdefault(parameter, len(self._numbers))

    def start(self, model: torch.nn.Module) -> None:
        """Rounds a model's weights for good, before an engine copies them."""
        if self.rounding is Rounding.DITHERED:
            for parameter in model.parameters():
                parameter.data = rounded(parameter, torch.bfloat16).to(parameter.dtype)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Within the block the optimizers' parameters are exact, for a checkpoint to read."""
        for parameter in self._lost:
            self._make_exact(parameter)
        try:
            yield
        finally:
            self.round(self._lost)

    def round(self, parameters: Iterable[Tensor]) -> None:
        """Rounds parameters of an optimizer that are exact, such as those read from a checkpoint."""
        if self.rounding is Rounding.DITHERED:
            for parameter in parameters:
                self._round(parameter)

    def computing(self, weights: Iterable[tuple[str, Tensor]]) -> Weights:
        """Weights as the model computes with them; ``weights``: the optimizer's, or sums of these."""
        for name, tensor in weights:
            yield name, tensor.bfloat16() if self.rounding is Rounding.NEAREST else tensor

    def seen(self) -> tuple[Tensor, Tensor]:
        """(⟨change of the weights that are computed with, update⟩, ‖update‖²) of the steps since the last call, over a
        sample of this rank's weights."""
        parts, self._seen = self._seen, []
        if not parts:
            return torch.zeros(()), torch.zeros(())
        product, square = torch.stack(parts).sum(0).cpu()
        return product, square

    def warn(self, seen: float) -> None:
        """Logs one warning per run where the model computes with less than half of an update."""
        if seen < UNSEEN and not self._warned:
            self._warned = True
            log.warning(
                "the weights that are computed with changed by %.2g of the update: bfloat16 is too coarse for this "
                "learning rate; type learner.rounding=dithered, learner.dtype=float32 or a higher learning_rate", seen,
            )  # fmt: skip

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in _stepping(optimizer):
            rounded_sample = self._computing(parameter)
            self._make_exact(parameter)
            self._before[parameter] = rounded_sample, _sample(parameter).clone()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in _stepping(optimizer):
            computing, exact = self._before.pop(parameter)
            update = _sample(parameter) - exact
            self.round([parameter])
            change = self._computing(parameter) - computing
            self._seen.append(torch.stack([change.double() @ update.double(), update.double().square().sum()]))

    def _computing(self, parameter: Tensor) -> Tensor:
        """A sample of the weights that the model computes with."""
        sample = _sample(parameter)
        return sample.bfloat16().float() if self.rounding is Rounding.NEAREST else sample.clone()

    def _make_exact(self, parameter: Tensor) -> None:
        if (lost := self._lost.get(parameter)) is not None:
            steps = thresholds(parameter.device, self._numbers[parameter])
            for bits, low, kept in _chunks(parameter, lost):
                low.copy_(kept)
                bits.sub_(steps[: len(bits)])

    def _round(self, parameter: Tensor) -> None:
        if parameter not in self._lost:
            self._lost[parameter] = torch.empty(parameter.numel(), dtype=torch.int16, device=parameter.device)
        steps = thresholds(parameter.device, self._numbers.setdefault(parameter, len(self._numbers)))
        for bits, low, kept in _chunks(parameter, self._lost[parameter]):
            bits.add_(steps[: len(bits)])
            kept.copy_(low)
            low.zero_()


def _stepping(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that the step changes."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _chunks(parameter: Tensor, lost: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Views of a float32 parameter, chunk by chunk: its bits, their lower half, and the part of ``lost`` beside it."""
    bits, size = parameter.detach().view(-1).view(torch.int32), chunk_size(parameter.device)
    for part, kept in zip(bits.split(size), lost.split(size), strict=True):
        yield part, part.view(torch.int16)[::2], kept  # little-endian: the lower half comes first


def _sample(parameter: Tensor) -> Tensor:
    """Weights at equal distances, a view."""
    least, most = SAMPLE_SIZES
    size = min(max(parameter.numel() // SAMPLED, least), most)
    return parameter.detach().view(-1)[:: max(1, parameter.numel() // size)]
