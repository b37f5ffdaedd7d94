"""Determinantal point processes on torch alone: kernels, log-determinants, leave-one-out credits, selection of a set.

>>> kernel_PKK = kernel_matrix(embeddings_PKD, kind="cosine")
>>> credits_PK = leave_one_out_credits(kernel_PKK)

Axes in names: P sets (the completions of P prompts) · K items per set · D embedding width. P stands for any number of
leading dimensions, including none. Everything runs on the input's device and in float64, and returns float64 where the
input is float64, float32 otherwise. Wrong input raises ValueError: kernels must be square, finite, symmetric and
positive semi-definite (up to rounding in their dtype), masks ``torch.bool``, numbers real.
"""

from dqo.dpp.checks import KernelError
from dqo.dpp.determinants import leave_one_out_credits, log_det
from dqo.dpp.kernels import Kernel, kernel_matrix
from dqo.dpp.selection import RankError, greedy_map, sample_k_dpp

__all__ = [
    "Kernel",
    "KernelError",
    "RankError",
    "greedy_map",
    "kernel_matrix",
    "leave_one_out_credits",
    "log_det",
    "sample_k_dpp",
]
