"""Trying a model before any work, to see which ways of calling it give the log-probabilities that it should."""

import contextlib
import math
from collections.abc import Iterator

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from dqo.models.folders import first_line

# What the code of a model may raise where it is called in a way that it was not made for.
MODEL_ERRORS = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
FLOAT32_TOLERANCE = 1e-3  # rounding makes 1e-6, or 1e-4 where cuDNN's convolutions use TF32
TF32_TOLERANCE = 1e-2
BFLOAT16_TOLERANCE = 3e-2


@contextlib.contextmanager
def probe_precision(model: PreTrainedModel | PeftModel) -> Iterator[float]:
    """How exactly two ways to compute log-probabilities must agree, as a share of the log-probabilities' range: those
    of an untrained model are close together. Within the block a model computes in its weights' dtype (float32), or in
    bfloat16 where its attention takes nothing else."""
    flash = "flash" in str(model.config._attn_implementation)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=flash):
        exact = FLOAT32_TOLERANCE if torch.get_float32_matmul_precision() == "highest" else TF32_TOLERANCE
        yield BFLOAT16_TOLERANCE if flash else exact


def model_fault(error: Exception) -> str:
    """What one of ``MODEL_ERRORS`` says, in one line. Raises it again where the device is at fault, not the model."""
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        raise error
    return first_line(error)


def largest_difference(given: Tensor, expected: Tensor) -> float:
    """max |given - expected| where ``expected`` is finite: weights that are not finite are found in training, and a
    vocabulary may have tokens that never occur. Infinite where ``given`` alone is not finite."""
    difference = (given - expected).abs().where(expected.isfinite(), 0.0)
    return float(difference.nan_to_num(nan=math.inf).max())


def finite_range(values: Tensor) -> float:
    """Largest minus smallest of the finite values; 0.0 without any."""
    finite = values[values.isfinite()]
    return float(finite.max() - finite.min()) if len(finite) else 0.0
