"""A policy without dropout."""

import torch
from transformers import PreTrainedModel


def disable_dropout(policy: PreTrainedModel) -> None:
    """For good: a ratio between two passes must not be noise."""
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
