"""ROUGE between two texts that are given as words (Lin 2004): F-measures from 0 to 1, 0 where either has no word."""

import re
from collections import Counter
from collections.abc import Sequence


def rouge_words(text: str) -> list[str]:
    """The words of a text, case-folded: runs of letters, digits and underscores. Of English texts those of the package
    rouge-score without its stemmer."""
    return re.findall(r"\w+", text.casefold())


def rouge_n(split: Sequence[str], other: Sequence[str], n: int) -> float:
    """F-measure of the n-grams that both have, each as often as in the text that has it less often."""
    first, second = (Counter(zip(*(words[start:] for start in range(n)), strict=False)) for words in (split, other))
    total = first.total() + second.total()
    return 2 * (first & second).total() / total if total else 0.0


def rouge_l(split: Sequence[str], other: Sequence[str]) -> float:
    """2 · (words of the longest common subsequence) / (words of both)."""
    return rouge_l_of(word_places(split), split, other)


def rouge_l_of(places: dict[str, int], split: Sequence[str], other: Sequence[str]) -> float:
    """``rouge_l``, with the ``word_places`` of ``split``, for a text that is compared with many."""
    total = len(split) + len(other)
    return 2 * _common_subsequence(places, len(split), other) / total if total else 0.0


def word_places(split: Sequence[str]) -> dict[str, int]:
    """For each word the bits of its places in the text."""
    places: dict[str, int] = {}
    for place, word in enumerate(split):
        places[word] = places.get(word, 0) | 1 << place
    return places


def _common_subsequence(places: dict[str, int], length: int, other: Sequence[str]) -> int:
    """Length of the longest common subsequence of a text with these ``places`` and another one.

    Bit-parallel (Hyyrö 2004): one row of the usual table is one integer, whose zero bits are the places where the row
    grows.
    """
    full = row = (1 << length) - 1
    for word in other:
        if matched := row & places.get(word, 0):
            row = ((row + matched) | (row - matched)) & full
    return length - row.bit_count()
