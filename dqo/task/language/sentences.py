"""Sentences of English text, by punctuation."""

import re
from itertools import pairwise

ABBREVIATION = r"(?<!\b[A-Z]\.)(?<!\b(?:Mr|Ms|Dr|St)\.)(?<!\b(?:Mrs|Gov|Sen|Rep|Gen)\.)"
SENTENCE_END = re.compile(rf"""(?:(?<=[.!?])|(?<=[.!?]["'”’)\]])){ABBREVIATION}\s+(?![a-z])|\n+""")
WORD_END = re.compile(r"\s+")


def sentences(text: str) -> list[str]:
    """The sentences, each with the white space that follows it: joined they are the text. A line end ends one, too."""
    return _pieces(text, SENTENCE_END)


def words_with_space(text: str) -> list[str]:
    """The words, each with the white space that follows it."""
    return _pieces(text, WORD_END)


def _pieces(text: str, boundary: re.Pattern[str]) -> list[str]:
    ends = [match.end() for match in boundary.finditer(text)]
    places = [0, *(end for end in ends if end < len(text)), len(text)]
    return [text[start:end] for start, end in pairwise(places) if end > start]
