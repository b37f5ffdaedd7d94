"""Checksums that compare an inference engine's tensors with the learner's, although the engine fuses layers, pads
tensors and may compute with a repacked copy of a weight."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from dqo.stages import Weights

PROBE_SEED = 7


def probe_vector(width: int, like: Tensor) -> Tensor:
    """A fixed random vector (width,), with the device and dtype of ``like``."""
    vector = torch.randn(width, generator=torch.Generator().manual_seed(PROBE_SEED))
    return vector.to(like.device, like.dtype)


def checksum(tensor: Tensor) -> Tensor:
    """(sum, sum of squares), float64, on the CPU. Equal for equal numbers in any order and grouping, up to rounding."""
    wide = tensor.detach().double()
    return torch.stack([wide.sum(), wide.square().sum()]).cpu()


def weight_checksum(tensor: Tensor) -> Tensor:
    """Checksum of a matrix's product with the probe vector, as a linear layer computes it; any other tensor's own."""
    return checksum(tensor @ probe_vector(tensor.shape[1], tensor) if tensor.ndim == 2 else tensor)


def expected_checksums(
    weights: Weights,
    *,
    names: Collection[str],
    fused_layers: Mapping[str, Sequence[str]],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """{engine's tensor name: weight checksum} of the learner's ``weights``, computed on ``device`` in ``dtype``.

    ``names``: the engine's tensors; others are left out. ``fused_layers``: {fused layer: the layers it consists of},
    vLLM's ``packed_modules_mapping``; the checksum of a fused layer is the sum over its parts.
    """
    fused_layer_of = {part: fused for fused, parts in fused_layers.items() for part in parts}
    expected: dict[str, Tensor] = {}
    for name, tensor in weights:
        module, _, kind = name.rpartition(".")
        parent, _, last = module.rpartition(".")
        target = f"{parent}.{fused_layer_of[last]}.{kind}" if last in fused_layer_of else name
        if target in names:
            part = weight_checksum(tensor.detach().to(device, dtype))
            expected[target] = expected[target] + part if target in expected else part
    return expected


def equal_up_to_rounding(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two checksums differ by no more than the rounding of products in ``dtype``; checksums of different
    tensors differ by far more."""
    return torch.allclose(actual, expected, rtol=50 * torch.finfo(dtype).eps, atol=1e-3)
