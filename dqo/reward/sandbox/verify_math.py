"""Compares answers with math-verify. Runs in the sandbox, so it does not import torch.

math-verify's own time limits are off: they need signals, do not stop code that hangs inside C, and take whole seconds
only. Instead the sandbox kills the process after its timeout. A comparison that sympy cannot make counts as different,
as in math-verify.
"""

import functools
import logging
import re
from collections.abc import Iterator, Sequence

import sympy
from math_verify import ExprExtractionConfig, parse
from math_verify.grader import get_pct_val

from dqo.answers.finding import after_marker, in_boxes, in_maths, in_tags, unescaped, without_amounts
from dqo.answers.notation import Unreadable, mixed_numbers_as_fractions
from dqo.reward.sandbox.math_answer import NO_LIMIT, Answer, Kind, read_answer, read_like, same_answer

LAST_OF_TEXT = re.compile(r".*(?:\b(?:is|are|equals)\b|[=≈]|(?<!\d):)\s*(.+)", re.DOTALL)  # "So x + 3 is 7."
ONE_LINE = re.compile(r"[^\n]{1,200}")  # a completion that may be an answer and nothing else

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its time limits are off


def judge(answer: str, text: str) -> dict[str, bool]:
    """Whether an answer was found in the right answer (``answer_parsed``) and in the completion (``parsed``), and
    whether the two are equal (``correct``)."""
    gold = read_gold(answer)
    found = None if gold is None else _found(unescaped(text), gold)
    correct = gold is not None and found is not None and same_answer(gold, found)
    return {"answer_parsed": gold is not None, "parsed": found is not None, "correct": correct}


def read_golds(answers: Sequence[str]) -> list[str | None]:
    """What each right answer was read as, None where it cannot be read."""
    return [None if (gold := read_gold(answer)) is None else str(gold) for answer in answers]


@functools.lru_cache(maxsize=1024)
def read_gold(answer: str) -> Answer | None:
    """The value of a right answer: a formula, or a text with a box, with "####" or "the answer is", with maths between
    dollars, or one whose last sentence ends in "is" or "=" and a formula."""
    return next(_readings(_gold_texts(unescaped(answer))), None)


def _gold_texts(answer: str) -> Iterator[str]:
    box = in_boxes(answer)
    if box:
        yield box.joined
        return
    if "####" not in answer:
        yield answer
    if marked := after_marker(answer):
        yield marked
    if maths := in_maths(answer):
        yield maths.joined
    if last := LAST_OF_TEXT.fullmatch(answer):
        yield last[1]


def _readings(texts: Iterator[str]) -> Iterator[Answer]:
    for text in texts:
        try:
            yield read_answer(text)
        except Unreadable:
            continue


def _found(text: str, gold: Answer) -> Answer | None:
    """The completion's answer: what its last box holds; without a box, what follows the last "answer is", else the last
    formula, else the last number; of a text with <answer> tags, what stands in them."""
    text = in_tags(text) or text
    boxes = in_boxes(text)
    if boxes:
        return _read(boxes.joined if gold.is_list else boxes.last, gold)
    maths = in_maths(text)
    candidates = [after_marker(text), text.strip() if ONE_LINE.fullmatch(text.strip()) else None]
    candidates.append((maths.joined if gold.is_list else maths.last) if maths else None)
    for candidate in candidates:
        if candidate and (answer := _read(candidate, gold)):
            return answer
    return _last_number(text)


def _read(text: str, gold: Answer) -> Answer | None:
    try:
        return read_like(gold, text)
    except Unreadable:
        return None


def _last_number(text: str) -> Answer | None:
    text = mixed_numbers_as_fractions(without_amounts(text))
    values = parse(text, [ExprExtractionConfig()], "no_fallback", parsing_timeout=NO_LIMIT)
    if not values or not isinstance(values[0], sympy.Basic):
        return None
    hundred = get_pct_val(values[0])
    return Answer(Kind.FORMULA, values[0]) if hundred is None else Answer(Kind.FORMULA, hundred, percent=True)
