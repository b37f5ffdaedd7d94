"""Dropout of the policy."""

import torch
from transformers import PreTrainedModel


def disable_dropout(policy: PreTrainedModel) -> None:
    """Switches dropout off permanently: a ratio of probabilities from two forward passes must not contain its noise."""
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
