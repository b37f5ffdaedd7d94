"""How a policy computes while it learns."""

import torch
from transformers import PreTrainedModel


def computes_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 natively; emulated, autocast would be slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def disable_dropout(policy: PreTrainedModel) -> None:
    """For good: a ratio between two passes must not be noise."""
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
