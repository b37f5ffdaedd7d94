"""Floating-point types to compute in."""

from enum import StrEnum

import torch


class Dtype(StrEnum):
    """Options of the key ``dtype``."""

    AUTO = "auto"  # bfloat16 where the device computes it natively, else float32
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    def on(self, device: torch.device) -> torch.dtype:
        """The torch dtype that this option means on ``device``."""
        if self is not Dtype.AUTO:
            return getattr(torch, self.value)
        return torch.bfloat16 if _native_bfloat16(device) else torch.float32


def _native_bfloat16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware: emulated bfloat16 runs everywhere, slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
