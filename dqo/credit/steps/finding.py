"""The steps of a completion, by a rule, and the tokens of each."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from dqo.answers.emptiness import is_empty
from dqo.records import Rollouts


class Splitting(StrEnum):
    """Where a step ends."""

    lines = "lines"  # at the end of a line
    sentences = "sentences"  # there, and behind . ! ? and their like before white space


LIST_NUMBER = re.compile(r"\s*\(?\d+[.)]\s*")  # "2. ": the step is what follows
ENDS = {Splitting.lines: re.compile(r"\n\s*"), Splitting.sentences: re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\n\s*")}


@dataclass(frozen=True)
class Step:
    """A step of one completion. Example: row 3, tokens 17 to 24, "So x = 2."."""

    row: int
    start: int  # first token, as a column of ``tokens_BT``
    end: int  # behind the last token
    text: str


def steps_of(rollouts: Rollouts, row: int, tokenizer: PreTrainedTokenizerBase, splitting: Splitting) -> list[Step]:
    """The steps of a completion in order; white space and blank lines behind a step belong to it. A token that two
    steps share belongs to the later one. Left out: the end token, and a step that has no token of its own."""
    first = len(rollouts.prompts[row // rollouts.k].tokens)
    last = int(rollouts.lengths_B[row]) - int(rollouts.finished_B[row])
    tokens = rollouts.tokens_BT[row, first:last].tolist()
    text = str(tokenizer.decode(tokens, skip_special_tokens=True))
    starts, ends = step_starts(text, splitting), token_ends(tokens, tokenizer)
    columns = [bisect_right(ends, start) for start in starts]
    parts = zip(pairwise([*columns, len(tokens)]), pairwise([*starts, len(text)]), strict=True)
    return [Step(row, first + a, first + b, text[start:end].strip()) for (a, b), (start, end) in parts if a < b]


def token_ends(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """For each token, the number of characters of the text up to its end. A token's text is the difference between
    decoding the tokens with it and without it; only the last few tokens are decoded, so the time is linear. Tokens that
    are bytes of one character have the same end."""

    def decoded(start: int, end: int) -> str:
        return str(tokenizer.decode(tokens[start:end], skip_special_tokens=True))

    ends, before, start, total = list[int](), 0, 0, 0
    for end in range(1, len(tokens) + 1):
        text = decoded(before, end)
        if text.endswith("\ufffd") and end < len(tokens):  # a character that is not complete
            continue
        added = len(text) - len(decoded(before, start))
        total += added
        ends += [total] * (end - start)
        before, start = (start if added else before), end  # a special token has no text to stand behind
    return ends


def step_starts(text: str, splitting: Splitting) -> list[int]:
    """Where the steps of a text begin, the first one at 0. Each has something to read, a sentence more than the number
    of a list; an empty text has no steps."""
    starts = [0]
    for match in ENDS[splitting].finditer(text):
        step = text[starts[-1] : match.start()]
        is_number = splitting == Splitting.sentences and LIST_NUMBER.fullmatch(step)
        if not is_empty(step) and not is_number and not is_empty(text[match.end() :]):
            starts.append(match.end())
    return [] if is_empty(text) else starts
