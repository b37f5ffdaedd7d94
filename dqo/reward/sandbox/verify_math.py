"""Compares answers with math-verify. Runs in the sandbox, so it does not import torch.

math-verify's own time limits are off: they need signals, do not stop code that hangs inside C, and take whole seconds
only. Instead the sandbox kills the process after its timeout. A comparison that sympy cannot make counts as different,
as in math-verify.
"""

import functools
import logging
import re
from typing import Any

from math_verify import parse, verify

ANCHOR = re.compile(r"\$|\\boxed|\\\(|\\\[")  # math-verify parses as LaTeX what follows one of these
COMMAND, WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]{2,}")
NO_LIMIT = 0  # seconds

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it would warn that its time limits are off


def judge(answer: str, text: str) -> dict[str, bool]:
    """Whether an answer was found in the right answer (``answer_parsed``) and in the completion (``parsed``), and
    whether the two are equal (``correct``)."""
    gold, found = _gold(answer), parse(text, parsing_timeout=NO_LIMIT)
    agree = bool(gold) and bool(found) and verify(gold, found, timeout_seconds=NO_LIMIT)
    return {"answer_parsed": bool(gold), "parsed": bool(found), "correct": agree}


@functools.lru_cache(maxsize=1024)
def _gold(answer: str) -> list[Any]:
    """The parsed right answer, empty if none was found.

    A bare formula (``x^2+1``, ``(1, 2)``) is put in ``$``, otherwise math-verify would only find its last number. Text
    with an answer in it (``… #### 72``, ``5 dollars``) is searched like a completion.
    """
    answer = answer.replace(r"\$", "")  # an amount of dollars, not LaTeX
    bare = not ANCHOR.search(answer) and not WORD.search(COMMAND.sub("", answer))
    return parse(f"${answer}$" if bare else answer, parsing_timeout=NO_LIMIT)
