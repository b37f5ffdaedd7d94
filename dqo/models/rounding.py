"""Weights in fewer bits, without losing small updates.

With weights in bfloat16 a learning rate of 1e-5 moves most weights by less than half the distance between two numbers:
rounded to the nearest one, they stay where they are. Here each weight is rounded up or down by a threshold of its own,
drawn once for all runs (a dither, as in signal processing): an update that is 3 % of the distance moves 3 % of the
weights. It is stochastic rounding whose random numbers do not change from step to step. So weights that did not change
are rounded as before, the result depends on the weights alone, and numbers of the narrower type stay what they are.
"""

from functools import cache

import torch
from torch import Tensor

LOST_BITS = {torch.bfloat16: 16, torch.float16: 13}  # of float32's 23 bits of mantissa
# Prime, so that neither the columns nor the rows of a matrix meet the same few thresholds.
THRESHOLDS = 65537
SHIFT = 4099  # from one tensor's first threshold to the next one's
REPEATS = {"cpu": 4}  # of the thresholds in a chunk: as much as stays in a CPU's cache; else ``ELSEWHERE``
ELSEWHERE = 256


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in ``dtype``. Floating-point numbers that lose bits are rounded up or down with the probabilities that
    make the mean right; which way, depends on the number and its place in the tensor alone. Others are cast.

    A tensor that has the dtype already is returned as it is. Example: 1.002 in bfloat16, whose neighbours are 1 and
    1.0078, is 1.0078 in a fourth of all places.
    """
    if tensor.dtype == dtype or dtype not in LOST_BITS or tensor.dtype not in (torch.float32, torch.float64):
        return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
    size, result = chunk_size(tensor.device), torch.empty(tensor.shape, dtype=dtype, device=tensor.device)
    source = tensor.detach().float().flatten().view(torch.int32)
    steps, buffer = thresholds(tensor.device) >> (16 - LOST_BITS[dtype]), torch.empty_like(source[:size])
    for part, target in zip(source.split(size), result.view(-1).split(size), strict=True):
        bits = torch.add(part, steps[: len(part)], out=buffer[: len(part)])
        bits.bitwise_and_(-1 << LOST_BITS[dtype])
        target.copy_(bits.view(torch.float32))
    return result


def thresholds(device: torch.device, tensor: int = 0) -> Tensor:
    """int32, 0 … 2**16 - 1 in a random order, repeated to the length of ``chunk_size``. Another ``tensor`` begins at
    another place: small tensors of one shape would else move together."""
    start = tensor * SHIFT % THRESHOLDS
    return _repeated(device)[start : start + chunk_size(device)]


def chunk_size(device: torch.device) -> int:
    """How many numbers are rounded at once: a multiple of the thresholds' period."""
    return THRESHOLDS * REPEATS.get(device.type, ELSEWHERE)


@cache
def _repeated(device: torch.device) -> Tensor:
    order = torch.randperm(THRESHOLDS, generator=torch.Generator().manual_seed(0))
    return (order % 2**16).to(device, torch.int32).repeat(REPEATS.get(device.type, ELSEWHERE) + 1)
