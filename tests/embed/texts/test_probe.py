"""Encoders are told apart by one sentence."""

import pytest
import torch

from dqo.embed.texts.probe import refuse_other_encoder
from dqo.errors import ConfigError


def test_rounding_is_the_same_encoder():
    saved_D = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 3.0]), dim=0)
    refuse_other_encoder(torch.nn.functional.normalize(saved_D + 1e-3, dim=0), saved_D.tolist(), "model")


def test_another_direction_or_width_is_another_encoder():
    with pytest.raises(ConfigError, match=r"embed.path is not the encoder of the checkpoint; type the embed.path"):
        refuse_other_encoder(torch.tensor([0.0, 1.0]), [1.0, 0.0], "path")
    with pytest.raises(ConfigError, match=r"\(embeddings of 3 numbers, now 2\)"):
        refuse_other_encoder(torch.tensor([0.0, 1.0]), [1.0, 0.0, 0.0], "path")
