"""How many tokens a micro-batch may have: what was typed, or what the GPU's memory holds, and half of it after a pass
that ran out of memory."""

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch

from dqo import distributed
from dqo.errors import StageError
from dqo.learner.update.packing import MicroBatch

Result = TypeVar("Result")
Pack = Callable[[int], list[MicroBatch]]  # micro-batches of at most this number of tokens, longest sequences first

log = logging.getLogger("dqo")

KEY = "learner.max_tokens_per_micro_batch"
AUTO = "auto"
DEFAULT = 1024  # tokens, of auto on a CPU, and on a GPU until its memory has been measured
STEP = 1024  # a measured budget is a multiple of it
# Trial passes have no fragmented memory, and the longest ones are not among them.
SPARE = 0.1  # of the device's memory
NO_LIMIT = 1 << 30  # tokens, of a rank that had nothing to measure with


class Budget:
    """``tokens``: of the largest micro-batch, with padding."""

    def __init__(self, setting: int | Literal["auto"], device: torch.device):
        self.setting, self.device = setting, device
        self.tokens = self._first = DEFAULT if setting == AUTO else int(setting)
        self.is_measured = setting != AUTO or device.type != "cuda"  # or there is nothing to measure
        self._failures = 0

    def new_failures(self) -> int:
        """How often passes ran out of memory since the last call."""
        failures, self._failures = self._failures, 0
        return failures

    def take(
        self, pack: Pack, passes: Callable[[list[MicroBatch]], Result], discard: Callable[[], None]
    ) -> tuple[list[MicroBatch], Result]:
        """(micro-batches of at most ``tokens``, what ``passes`` returns for them). After a pass that runs out of memory
        ``discard`` removes what the passes have left, and all are taken again with half the budget, from now on.

        Raises StageError where one completion does not fit, and with several ranks: the others already wait in a
        collective of the pass that failed.
        """
        while True:
            batches = pack(self.tokens)
            try:
                return batches, passes(batches)
            except torch.OutOfMemoryError as error:
                half, reason = _half(self.tokens, batches, error), " ".join(str(error).split(". ")[:2])
            discard()  # only here: the exception held the activations
            free_cache(self.device)
            self.tokens, self._failures = half, self._failures + 1
            log.warning(
                "out of memory (%s): the step's passes are taken again, from now on with micro-batches of at most %d "
                "tokens; type %s=%d to begin with them", reason, half, KEY, half,
            )  # fmt: skip

    def measure(
        self,
        pack: Pack,
        run: Callable[[MicroBatch], object],
        discard: Callable[[], None],
        *,
        first: MicroBatch,
        to_come: int,
    ) -> None:
        """Set ``tokens`` to what fits into a GPU's memory on every rank. ``run``: a forward and backward pass; of
        ``first``, which allocates the gradients, then of a small and a large micro-batch. ``to_come``: bytes that will
        be allocated later and stay. Where no rank has two sizes ``tokens`` stays, until a later step. A collective."""

        def trial(tokens: int) -> list[MicroBatch]:
            large = pack(4 * tokens)[0]
            return [first, pack(large.tokens_RL.numel() // 4)[0], large]

        def fit(batches: list[MicroBatch]) -> None:
            peaks = [peak_bytes(self.device, lambda batch=batch: run(batch)) for batch in batches]
            free_cache(self.device)
            free, total = torch.cuda.mem_get_info(self.device)
            self._fit(batches[1:], peaks[1:], free=free - to_come - int(SPARE * total))

        self.take(trial, fit, discard)

    def _fit(self, batches: Sequence[MicroBatch], peaks: Sequence[int], *, free: int) -> None:
        found = line_through([batch.tokens_RL.numel() for batch in batches], peaks)
        tokens = NO_LIMIT if found is None else fitting_tokens(*found, free=free)
        agreed = -distributed.all_reduce_max(-tokens)
        if agreed == NO_LIMIT:
            return
        self.tokens, self.is_measured = agreed, True
        per_token = "" if found is None else f" ({found[0] / 1e6:.2f} MB a token, {free / 1e9:.1f} GB for them)"
        log.info("learner: micro-batches of at most %d tokens%s", agreed, per_token)

    def state(self) -> dict[str, int | str]:
        """What a checkpoint stores: a resumed run packs as the uninterrupted one. Empty while nothing has changed."""
        return {} if self.tokens == self._first else {"setting": self.setting, "tokens": self.tokens}

    def load(self, state: dict[str, int | str]) -> None:
        """Take back what ``state`` returned, unless another value of the key is typed now, or the device is a CPU."""
        if state.get("setting") == self.setting and not (self.setting == AUTO and self.device.type != "cuda"):
            self.tokens, self.is_measured = int(state["tokens"]), True


def line_through(sizes: Sequence[int], peaks: Sequence[int]) -> tuple[float, int] | None:
    """(bytes per token, constant bytes) of a small and a large pass; None where the large one is not larger."""
    (small, large), (low, high) = sizes, peaks
    if large <= small or high <= low:
        return None
    slope = (high - low) / (large - small)
    return slope, max(0, round(low - slope * small))


def fitting_tokens(bytes_per_token: float, constant: int, *, free: int) -> int:
    """The largest multiple of ``STEP`` whose pass fits into ``free`` bytes, at least one ``STEP``.

    Example: 1.4 G parameters with gradients and moments leave 57.6 GB of an H100's 80. Less 8 GB to spare, at 4.2 MB a
    token, 11,264 tokens fit.
    """
    return max(STEP, int((free - constant) / bytes_per_token) // STEP * STEP)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Most bytes that ``work`` allocates on a GPU at a time, beyond what is allocated now."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def free_cache(device: torch.device) -> None:
    """Give what torch holds unused back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _half(tokens: int, batches: Sequence[MicroBatch], error: torch.OutOfMemoryError) -> int:
    """Half of the budget, or of the largest micro-batch where that is smaller. Raises StageError where smaller
    micro-batches do not help."""
    largest = max((batch.tokens_RL.numel() for batch in batches), default=0)
    half = min(tokens, largest) // 2
    if half < 1 or all(len(batch.rows_N.unique()) == 1 for batch in batches):
        message = (
            f"out of memory in a pass of one completion (up to {largest} tokens with its prompt); type "
            "learner.gradient_checkpointing=true, a smaller max_completion_length, or learner.lora_r=16"
        )
        raise StageError("learner", message) from error
    if distributed.world_size() > 1:
        raise StageError(
            "learner",
            f"out of memory in a micro-batch of up to {largest} tokens, and several ranks cannot take a step's passes "
            f"again; go on with {KEY}={half}",
        ) from error
    return half
