"""Compares answers with math-verify. Runs in the sandbox: imports no torch.

math-verify's own time limits are off: they need signals, miss what hangs inside C, and take whole seconds. The
sandbox's limit ends the process instead. A comparison that sympy cannot make counts as different, as in math-verify.
"""

import functools
import logging
import re
from typing import Any

from math_verify import parse, verify

ANCHOR = re.compile(r"\$|\\boxed|\\\(|\\\[")  # what math-verify takes LaTeX between
COMMAND, WORD = re.compile(r"\\[A-Za-z]+"), re.compile(r"[A-Za-z]{2,}")
NO_LIMIT = 0  # seconds

logging.getLogger("math_verify").setLevel(logging.ERROR)  # else it warns that its time limits are off


def judge(answer: str, text: str) -> dict[str, bool]:
    """Whether there is something to compare in the right answer and in the completion, and whether they agree."""
    gold, found = _gold(answer), parse(text, parsing_timeout=NO_LIMIT)
    agree = bool(gold) and bool(found) and verify(gold, found, timeout_seconds=NO_LIMIT)
    return {"answer_parsed": bool(gold), "parsed": bool(found), "correct": agree}


@functools.lru_cache(maxsize=1024)
def _gold(answer: str) -> list[Any]:
    """A bare formula (``x^2+1``, ``(1, 2)``) is marked as LaTeX, else only its last number would be found; text around
    the answer (``… #### 72``, ``5 dollars``) is searched as a completion's is."""
    answer = answer.replace(r"\$", "")  # dollars, no mark
    bare = not ANCHOR.search(answer) and not WORD.search(COMMAND.sub("", answer))
    return parse(f"${answer}$" if bare else answer, parsing_timeout=NO_LIMIT)
