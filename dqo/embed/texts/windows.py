"""A long text as overlapping windows, each of which an encoder reads whole, and their embeddings' average. Ours."""

import math
from collections.abc import Callable, Mapping, Sequence
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


def windows_of(
    tokens: Mapping[str, int], count: Callable[[Sequence[str]], list[int]], room: int
) -> dict[str, tuple[list[str], list[int]]]:
    """For each text, windows of equal length in characters, as few as it takes for none to have more than ``room``
    tokens, and the tokens of each. A window begins with the last eighth of the one before. ``tokens``: of each text.
    ``count``: the tokens of given texts; called for all texts together, since tokenizers use a thread a text.

    Cut in characters and not in tokens, so that it works with every kind of tokenizer and prompt. At most one window
    per character, which matters where single characters have more than ``room`` tokens: these are truncated.
    """
    found = {text: ([text], [length]) for text, length in tokens.items()}
    while cut := {text: _cut(text, number) for text in found if (number := _more(text, *found[text], room))}:
        counted = iter(count([window for windows in cut.values() for window in windows]))
        found |= {text: (windows, [next(counted) for _ in windows]) for text, windows in cut.items()}
    return found


def _more(text: str, windows: Sequence[str], tokens: Sequence[int], room: int) -> int:
    """The number of windows to try next; 0: these are right."""
    if max(tokens) <= room or len(windows) >= len(text):
        return 0
    return min(len(text), max(len(windows) + 1, math.ceil(len(windows) * max(tokens) / room)))


def average(embeddings_WD: Float[Tensor, "windows dim"], tokens: Sequence[int]) -> Float[Tensor, " dim"]:
    """The mean of a text's windows, weighted by the tokens that each holds, of length 1."""
    return normalize(torch.tensor(tokens, dtype=embeddings_WD.dtype) @ embeddings_WD, dim=0)


def _cut(text: str, number: int) -> list[str]:
    step = 1 - OVERLAP
    width = len(text) / (1 + step * (number - 1))
    starts = [step * width * window for window in range(number)]
    return [text[math.floor(start) : math.ceil(start + width)] for start in starts]
