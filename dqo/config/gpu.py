"""``${gpu:vllm,hf}`` in conf/: the first option on a machine with a GPU and that engine installed, else the second."""

import importlib.util
import os
from pathlib import Path

from omegaconf import OmegaConf


def register() -> None:
    OmegaConf.register_new_resolver("gpu", either, replace=True)


def either(on_gpu: str, elsewhere: str) -> str:
    """An option is named after its engine's package: ``deepspeed_zero``."""
    installed = importlib.util.find_spec(on_gpu.partition("_")[0]) is not None
    return on_gpu if installed and has_gpu() else elsewhere


def has_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU: without torch, which takes seconds to import."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))
