"""``${gpu:vllm,hf}`` in conf/: the first option on a machine with a GPU and that engine installed, else the second."""

import importlib.util
import os
from pathlib import Path

from omegaconf import OmegaConf


def register() -> None:
    """Make the resolver known to OmegaConf."""
    OmegaConf.register_new_resolver("gpu", either, replace=True)


def either(on_gpu: str, elsewhere: str) -> str:
    """The first option if its engine is installed and there is a GPU, else the second. An option's name begins with the
    name of its engine's package: ``deepspeed_zero``."""
    installed = importlib.util.find_spec(on_gpu.partition("_")[0]) is not None
    return on_gpu if installed and has_gpu() else elsewhere


def has_gpu() -> bool:
    """Whether this process may use an NVIDIA GPU. Asks the file system and not torch, whose import takes seconds."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))
