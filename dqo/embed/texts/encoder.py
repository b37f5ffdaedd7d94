"""What encoders of texts have in common: each distinct text once, long ones in windows, unknown tokens counted."""

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dqo.embed.texts.normalization import Normalize, normalized
from dqo.embed.texts.probe import PROBE, refuse_other_encoder
from dqo.embed.texts.windows import LongTexts, average, windows_of
from dqo.records import Rollouts

log = logging.getLogger(__name__)

UNKNOWN_SHARE = 0.2  # a text with a larger share of tokens that the encoder does not know is counted
UNSEEN = {
    "truncated": "exceed the encoder's limit of {limit} tokens: truncated; type embed.long_texts=windows",
    "unknown": "have more than a fifth of tokens that the encoder does not know (emoji, other scripts) and cannot tell "
    "apart; type embed.{key}=NAME of an encoder that knows them",
}


class TextEncoder(ABC):
    """Embeddings of length 1. Equal rollouts get bit-identical embeddings: each distinct text is encoded once, in an
    order and in chunks that depend on the rollouts alone.

    A subclass says how texts are embedded, how they are tokenized and how many tokens it reads.
    """

    key: str  # of conf/embed, that names the model

    def __init__(self, *, long_texts: LongTexts, normalize_text: Sequence[Normalize]):
        self._long_texts, self._normalize, self._lock = long_texts, normalize_text, threading.Lock()
        self._counts = {"truncated": 0, "unknown": 0}

    @abstractmethod
    def _embed(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any length. Called by one thread at a time."""

    @abstractmethod
    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids as the model reads them: with a prompt and special tokens, not truncated."""

    @abstractmethod
    def _limit(self) -> int | None:
        """The number of tokens of a text that the model reads; None: all."""

    @abstractmethod
    def _unknown(self) -> int | None:
        """The token that stands for what the tokenizer does not know; None: it knows all texts."""

    def state_dict(self) -> dict[str, Any]:
        """The embedding of one fixed sentence, so that a resumed run notices another encoder."""
        return {"probe": self._unit_embeddings([PROBE])[0].tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raise ConfigError if the checkpoint was written with another encoder, since its distances differ."""
        refuse_other_encoder(self._unit_embeddings([PROBE])[0], state["probe"], self.key)

    def encode(self, rollouts: Rollouts) -> Float[Tensor, "prompts k dim"]:
        """Embeddings (P, k, dim) of length 1, float32, on the CPU; NaN or 0 where the encoder returned a vector that is
        not finite or is 0. Counts the texts that the encoder does not see whole, and logs a warning at the first.

        Judge threads call this concurrently; thread-safe by a lock. Not a collective.
        """
        return self.encode_texts(rollouts.texts).view(len(rollouts.prompts), rollouts.k, -1)

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Embeddings of any texts, one row a text, as ``encode`` makes them."""
        texts = [normalized(text, self._normalize) for text in texts]
        distinct = set(texts)
        with self._lock:
            windows = self._windows(_in_order(distinct))
        pieces = _in_order((distinct - windows.keys()).union(*(parts for parts, _ in windows.values())))
        embeddings_ND, rows = self._unit_embeddings(pieces), {piece: n for n, piece in enumerate(pieces)}
        averages = [average(embeddings_ND[[rows[part] for part in parts]], of) for parts, of in windows.values()]
        rows |= {text: len(pieces) + n for n, text in enumerate(windows)}
        embeddings_ND = torch.stack([*embeddings_ND, *averages]) if averages else embeddings_ND
        return embeddings_ND[[rows[text] for text in texts]]

    def counters(self) -> dict[str, int]:
        """Distinct texts encoded so far that were truncated, and that have unknown tokens. Thread-safe."""
        with self._lock:
            return dict(self._counts)

    def _unit_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        with self._lock:
            raw_ND = self._embed(texts)
        return normalize(raw_ND.float().cpu(), dim=1)

    def _windows(self, texts: Sequence[str]) -> dict[str, tuple[list[str], list[int]]]:
        """The windows of each text that is longer than the encoder reads, and their tokens. Counts the texts that are
        truncated, and those with tokens that the encoder does not know: texts that differ in nothing else get equal
        embeddings."""
        limit, unknown = self._limit() or math.inf, self._unknown()
        asked = texts if unknown is not None else [text for text in texts if 4 * len(text) > limit]  # bytes, at most
        if not asked:
            return {}
        *tokens, nothing = self._tokens([*asked, ""])
        found = zip(asked, tokens, strict=True)
        long = {text: len(ids) - len(nothing) for text, ids in found if len(ids) > limit}
        if unknown is not None:
            shares = [ids.count(unknown) / max(1, len(ids) - len(nothing)) for ids in tokens]
            self._count("unknown", sum(share > UNKNOWN_SHARE for share in shares), len(texts))
        if self._long_texts == LongTexts.truncate:
            self._count("truncated", len(long), len(texts))
            return {}

        def lengths(parts: Sequence[str]) -> list[int]:
            return [len(ids) - len(nothing) for ids in self._tokens(parts)]

        return windows_of(long, lengths, int(limit) - len(nothing))

    def _count(self, name: str, found: int, total: int) -> None:
        if found and not self._counts[name]:
            log.warning("%d of %d texts %s", found, total, UNSEEN[name].format(limit=self._limit(), key=self.key))
        self._counts[name] += found


def _in_order(texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: (len(text), text))
