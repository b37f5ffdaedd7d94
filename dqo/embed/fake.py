"""``embed=fake``: no model. Texts are alike as far as they share words."""

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import ConfigError
from dqo.records import Rollouts


class Fake:
    """Word counts, each word hashed to one of ``dim`` axes, at unit length: the same in every process."""

    def __init__(self, *, dim: int):
        if dim < 1:
            raise ConfigError(f"embed.dim={dim}: at least 1 is needed; type embed.dim=64")
        self._dim = dim

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        counts_BD = torch.zeros(len(rollouts.texts), self._dim)
        for b, text in enumerate(rollouts.texts):
            for word in text.split() or [""]:
                counts_BD[b, self._axis(word)] += 1
        return normalize(counts_BD, dim=1).view(len(rollouts.prompts), rollouts.k, self._dim)

    def _axis(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) % self._dim
