"""Reads the right answers of a whole data set before the first step, in several sandboxes at once."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

from dqo.progress import LoggedBar
from dqo.sandbox.sandbox import Sandbox, SandboxError

READ = "dqo.reward.sandbox.verify_math:read_golds"
PLAIN = re.compile(r"-?\d{1,15}(\.\d{1,15})?")  # needs no reading
BATCH = 100  # answers of one call; a formula takes some milliseconds
PER_PROCESS = 500  # answers that are worth the start of another process, a second or two
MOST_PROCESSES = 16
MEMORY = 4 << 30  # bytes: the answer 10^(10^10) must not fill the machine's memory


def readings(answers: Sequence[str], timeout: float) -> dict[str, str | None]:
    """What each answer is read as, None where it cannot be read within ``timeout`` seconds or not at all."""
    known: dict[str, str | None] = {answer: answer for answer in answers if PLAIN.fullmatch(answer)}
    rest = list(dict.fromkeys(answer for answer in answers if answer not in known))
    if rest:
        known |= zip(rest, _read(rest, timeout), strict=True)
    return known


def as_text(answer: Any) -> str | None:
    """The text of a right answer; None for anything but text and numbers."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        return None
    return str(answer)


def _read(answers: Sequence[str], timeout: float) -> Iterator[str | None]:
    count = min(os.cpu_count() or 1, MOST_PROCESSES, math.ceil(len(answers) / PER_PROCESS))
    setup = (READ, {"answers": []})  # imports sympy, which takes seconds, outside the time limit
    sandboxes = [Sandbox(timeout=timeout, setup=setup, memory_limit=MEMORY) for _ in range(count)]
    batches = [answers[start : start + BATCH] for start in range(0, len(answers), BATCH)]
    bar = LoggedBar(total=len(answers), desc="reading the right answers", unit="answers")

    def read(number: int) -> list[list[str | None]]:
        """Every ``count``-th batch, in this sandbox."""
        found = []
        for batch in batches[number::count]:
            found.append(_batch(sandboxes[number], batch))
            with bar.get_lock():
                bar.update(len(batch))
        return found

    try:
        with ThreadPoolExecutor(count) as pool:
            parts = list(pool.map(read, range(count)))
    finally:
        bar.close()
        for sandbox in sandboxes:
            sandbox.close()
    return chain.from_iterable(parts[i % count][i // count] for i in range(len(batches)))


def _batch(sandbox: Sandbox, answers: Sequence[str]) -> list[str | None]:
    try:
        return sandbox.call(READ, answers=list(answers))
    except SandboxError:
        return [_one(sandbox, answer) for answer in answers]


def _one(sandbox: Sandbox, answer: str) -> str | None:
    try:
        return sandbox.call(READ, answers=[answer])[0]
    except SandboxError:
        return None
