"""One fixed sentence, whose embedding tells encoders apart: a checkpoint keeps it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.errors import ConfigError

PROBE = "Encoders are told apart by what they make of this sentence."
SAME_ENCODER = 0.99  # cosine of two embeddings of PROBE; devices and dtypes change it by less than 0.001


def refuse_other_encoder(own_D: Float[Tensor, " dim"], saved: Sequence[float], key: str) -> None:
    """Raises ConfigError if PROBE's embedding was another one at the checkpoint, since all distances differ. ``key``:
    of conf/embed, that names the model."""
    saved_D = torch.tensor(saved)
    if len(own_D) == len(saved_D) and float(own_D @ saved_D) > SAME_ENCODER:
        return
    width = f" (embeddings of {len(saved_D)} numbers, now {len(own_D)})" if len(own_D) != len(saved_D) else ""
    raise ConfigError(
        f"resume: embed.{key} is not the encoder of the checkpoint{width}; type the embed.{key} that the run was "
        "started with, or start a new run with run_dir=ANOTHER_FOLDER"
    )
