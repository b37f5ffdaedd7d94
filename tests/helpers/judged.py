"""Judged completions with known numbers."""

import math
from collections.abc import Sequence

from dqo.records import Answers, Prompt


def make_answers(
    texts: Sequence[str], *, correct: Sequence[bool] | None = None, position: int = 0, invalid: Sequence[int] = ()
) -> Answers:
    """The completions of one prompt. Keys ignore the case; the reward is 1 where correct, NaN where ``invalid``."""
    right = [False] * len(texts) if correct is None else list(correct)
    return Answers(
        prompt=Prompt(position=position, tokens=(), content=f"City {position}?", columns={}),
        texts=tuple(texts),
        keys=tuple(text.casefold() for text in texts),
        correct=None if correct is None else tuple(right),
        rewards=tuple(math.nan if i in invalid else float(right[i]) for i in range(len(texts))),
        finished=(True,) * len(texts),
        lengths=tuple(len(text.split()) + 1 for text in texts),
    )
