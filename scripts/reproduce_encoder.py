"""The encoder of ``embed=sentence``, for the scripts."""

from pathlib import Path

import torch
from omegaconf import OmegaConf

from dqo.config import conf_dir
from dqo.embed.sentence import Sentence
from dqo.run.build import make


def minilm() -> Sentence:
    """The encoder with its defaults, on the CPU."""
    settings = OmegaConf.to_container(OmegaConf.load(Path(conf_dir(), "embed", "sentence.yaml")))
    assert isinstance(settings, dict)
    return make(settings, "embed", {"device": torch.device("cpu")})  # type: ignore[arg-type]
