"""``embed=remote``: embeddings by a service in OpenAI's form (``POST BASE_URL/embeddings``): dqo-serve, vLLM, OpenAI"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn.functional import normalize

from dqo.embed.texts.normalization import Normalize, normalized
from dqo.embed.texts.probe import PROBE, refuse_other_encoder
from dqo.errors import ConfigError, ServiceError
from dqo.ranges import Count
from dqo.records import Rollouts
from dqo.services import Calls, Service
from dqo.wire import parse

MODELS, EMBEDDINGS = "/models", "/embeddings"


class Item(BaseModel):
    """One embedding of a reply."""

    index: int
    embedding: list[float] | str  # str: float32 in base64, little endian


class Reply(BaseModel):
    """What an OpenAI-compatible service answers."""

    data: list[Item]


class Remote:
    """Embeddings of length 1. Each distinct text is asked for once, in batches that depend on the texts alone."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        token_variable: str,
        dimensions: Annotated[int | None, Field(ge=1, examples=["null"])],
        prefix: str,
        normalize_text: list[Normalize],
        batch: Annotated[Count, Field(le=2048, examples=[64])],
        calls: Calls,
    ):
        """Raises ConfigError where the service is not there, refuses the token or does not know the model."""
        self._model, self._dimensions, self._prefix = model, dimensions, prefix
        self._normalize, self._batch = normalize_text, batch
        self._service = Service(
            [base_url], calls, key="embed.base_url", stage="embed", token=token_variable,
            advice={
                404: f"does it know embed.model={model}? Type embed.model=NAME, or embed.base_url=http://HOST:PORT/v1"
            },
        )  # fmt: skip
        self._service.probe(MODELS)
        try:
            self._probe_D = self._unit_embeddings([PROBE])[0]
        except ServiceError as error:
            raise ConfigError(error.message) from error

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings (P, k, dim) of length 1, float32, on the CPU; 0 where the service returned 0. Thread-safe. Not a
        collective. Raises ServiceError where the service fails for good."""
        return self.encode_texts(rollouts.texts).view(len(rollouts.prompts), rollouts.k, -1)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any texts, one row a text, as ``encode`` makes them."""
        texts = [normalized(text, self._normalize) for text in texts]
        distinct = sorted({*texts}, key=lambda text: (len(text), text))
        batches = [distinct[start : start + self._batch] for start in range(0, len(distinct), self._batch)]
        if not batches:
            return self._probe_D.new_zeros(0, len(self._probe_D))
        embeddings_ND = torch.cat(self._service.side_by_side(self._unit_embeddings, batches))
        rows = {text: n for n, text in enumerate(distinct)}
        return embeddings_ND[[rows[text] for text in texts]]

    def state_dict(self) -> dict[str, Any]:
        """The embedding of one fixed sentence, so that a resumed run notices another encoder."""
        return {"probe": self._probe_D.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise ConfigError if the checkpoint was written with another encoder, since its distances differ."""
        refuse_other_encoder(self._probe_D, state["probe"], "model")

    def counters(self) -> dict[str, int]:
        """Requests that were made again. Thread-safe."""
        return {"repeated": self._service.repeated}

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def _unit_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        request: dict[str, Any] = {
            "model": self._model, "encoding_format": "base64",
            "input": [self._prefix + text or " " for text in texts],  # OpenAI refuses an empty text
        }  # fmt: skip
        if self._dimensions is not None:
            request["dimensions"] = self._dimensions
        body = json.dumps(request).encode()
        return normalize(self._service.post(body, lambda reply: self._read(reply, len(texts)), path=EMBEDDINGS), dim=1)

    def _read(self, body: bytes, count: int) -> Float[Tensor, "texts dim"]:
        """The embeddings in a reply to ``count`` texts. Raises ValueError for anything else."""
        items = sorted(parse(Reply, body).data, key=lambda item: item.index)
        if [item.index for item in items] != [*range(count)]:
            raise ValueError(f"{len(items)} embeddings for {count} texts, or their indices are not 0 to {count - 1}")
        rows = [_numbers(item.embedding) for item in items]
        widths = {len(row) for row in rows}
        if len(widths) > 1 or 0 in widths or self._dimensions not in (None, *widths):
            wanted = f", and embed.dimensions={self._dimensions}" if self._dimensions is not None else ""
            raise ValueError(f"embeddings of {', '.join(map(str, sorted(widths)))} numbers{wanted}")
        embeddings_ND = torch.from_numpy(np.stack(rows))
        if not embeddings_ND.isfinite().all():
            raise ValueError("an embedding has a number that is not finite")
        return embeddings_ND


def _numbers(embedding: list[float] | str) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """float32 numbers. A service that does not know base64 sends a list. Raises ValueError."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    with np.errstate(over="ignore"):  # inf is refused by the caller
        return np.array(embedding, dtype=np.float32)
