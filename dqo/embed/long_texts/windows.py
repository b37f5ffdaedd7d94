"""A long text as overlapping windows, each of which an encoder reads whole, and their embeddings' average. Ours."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

OVERLAP = 1 / 8  # of a window's characters, with which the next one begins


class LongTexts(StrEnum):
    """What becomes of a text with more tokens than the encoder reads."""

    windows = "windows"  # overlapping windows are embedded, and the embeddings averaged
    truncate = "truncate"  # what is behind the limit counts for nothing


def windows_of(text: str, count: Callable[[Sequence[str]], list[int]], room: int) -> tuple[list[str], list[int]]:
    """Windows of equal length in characters, as few as it takes for none to have more than ``room`` tokens, and the
    tokens of each. A window begins with the last eighth of the one before. ``count``: the tokens of each text.

    Cut in characters and not in tokens, so that it works with every kind of tokenizer and prompt. At most one window
    per character, which matters where single characters have more than ``room`` tokens: these are truncated.
    """
    windows = [text]
    while (longest := max(tokens := count(windows))) > room and len(windows) < len(text):
        windows = _cut(text, min(len(text), max(len(windows) + 1, math.ceil(len(windows) * longest / room))))
    return windows, tokens


def average(embeddings_WD: Float[Tensor, "windows dim"], tokens: Sequence[int]) -> Float[Tensor, " dim"]:
    """The mean of a text's windows, weighted by the tokens that each holds, of length 1."""
    return normalize(torch.tensor(tokens, dtype=embeddings_WD.dtype) @ embeddings_WD, dim=0)


def _cut(text: str, number: int) -> list[str]:
    step = 1 - OVERLAP
    width = len(text) / (1 + step * (number - 1))
    starts = [step * width * window for window in range(number)]
    return [text[math.floor(start) : math.ceil(start + width)] for start in starts]
