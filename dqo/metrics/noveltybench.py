"""NoveltyBench's metrics without its models (Zhang et al. 2025, 2504.05228; version 1.0 of its code): classes of
answers that say the same, how many there are, and how useful the answers are one after another."""

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence

SHORT = 5  # words: up to this length, words decide whether two answers are the same
PATIENCE = 0.8  # probability that a reader goes on to the next answer
# between the scores 1 to 10, for rewards of Skywork-Reward-Gemma-2-27B-v0.2
REWARD_THRESHOLDS = (-7.71875, -6.28125, -6.0, -5.71875, -5.5, -5.0, -4.375, -3.4375, -2.046875)

# markers where a word begins or ends, not between two characters of one word (2*3, snake_case) and not alone (* item)
_EMPHASIS = re.compile(r"(?<![\w*`])[*_`]+(?=[^\s*_`])|(?<=[^\s*_`])[*_`]+(?![\w*`])")


def without_emphasis(text: str) -> str:
    """The text without markdown's emphasis and code markers, stripped: ``**Paris**.`` becomes ``Paris.``"""
    return _EMPHASIS.sub("", text).strip()


def same_if_short(text: str, other: str) -> bool | None:
    """Whether two texts of at most five words are the same: twice the number of common words is at least the length
    of the longer one. None if one of them is longer. Words are what white space separates, in lower case."""
    words, others = text.lower().split(), other.lower().split()
    longer = max(len(words), len(others))
    return 2 * len({*words} & {*others}) >= longer if longer <= SHORT else None


def partition(texts: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
    """Class of each text, numbered from 0 in the order in which they appear: the first class whose FIRST member is
    the same, else a new one.

    Short texts are compared by their words, longer ones by ``same(first_member, text)``. Both get the texts without
    markdown's emphasis, which NoveltyBench's own code leaves in: there ``**Paris**`` and ``Paris`` are two classes.
    """
    firsts: list[str] = []
    classes: list[int] = []
    for text in map(without_emphasis, texts):
        for number, first in enumerate(firsts):
            short = same_if_short(first, text)
            if same(first, text) if short is None else short:
                classes.append(number)
                break
        else:
            classes.append(len(firsts))
            firsts.append(text)
    return classes


def distinct_k(classes: Sequence[int]) -> float:
    """Number of classes among k answers: 1 to k, higher is more diverse. NaN for no answer.

    ``classes`` come from ``partition``. The field ``distinct`` in NoveltyBench's files is one too small.
    """
    return float(len({*classes})) if classes else math.nan


def utility_k(classes: Sequence[int], scores: Sequence[int | float]) -> float:
    """Mean score of k answers in their order, Σ .8^i s_i / Σ .8^i; an answer of a class that came before has score 0.

    0 to the largest score, higher is better. ``scores`` are 1 to 10 (``score_of``). NaN for no answer, or if the score
    of the first answer of a class is NaN.
    """
    if not classes:
        return math.nan
    weights = [PATIENCE**i for i in range(len(classes))]
    new = [number not in classes[:i] for i, number in enumerate(classes)]
    gained = sum(w * s for w, s, counts in zip(weights, scores, new, strict=True) if counts)
    return gained / sum(weights)


def score_of(reward: float) -> int:
    """Score of an answer, 1 to 10, by the reward that Skywork-Reward-Gemma-2-27B-v0.2 gives it. The thresholds fit no
    other reward model."""
    return bisect_left(REWARD_THRESHOLDS, reward) + 1
