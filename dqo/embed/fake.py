"""``embed=fake``: embeddings without a model. Texts that share words are similar."""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from dqo.records import Rollouts


class Fake:
    """Normalised word counts: each word is hashed to one of ``dim`` axes. Equal in every process."""

    def __init__(self, *, dim: Annotated[int, Field(ge=1, examples=[64])]):
        self._dim = dim

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings (P, k, dim) of length 1, float32, on the CPU.

        Pure: judge threads may call this concurrently. Not a collective.
        """
        return self.encode_texts(rollouts.texts).view(len(rollouts.prompts), rollouts.k, self._dim)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any texts, one row a text, as ``encode`` makes them."""
        counts_ND = torch.zeros(len(texts), self._dim)
        for n, text in enumerate(texts):
            for word in text.split() or [""]:
                counts_ND[n, self._axis(word)] += 1
        return normalize(counts_ND, dim=1)

    def _axis(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest) % self._dim
