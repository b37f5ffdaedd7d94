"""The completions of a sampling run on the disk: no prompt that was finished is lost when the process is killed.

``CELL/journal_RANK.jsonl`` gets each prompt's completions as soon as they are judged. Every few thousand completions,
and at the end, the journal becomes ``CELL/part_RANK_NUMBER.parquet`` and is emptied. A process that is killed between
these two leaves prompts in both; ``recover`` keeps them once.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dqo.files.answers_table import Cell, read_positions, write
from dqo.files.atomic import sweep
from dqo.records import Answers, Prompt

log = logging.getLogger(__name__)

COMPLETIONS = 4000  # of a part; fewer where they are long
CHARACTERS = 16_000_000  # of a journal: the groups that it holds are in memory, too


class AnswersStore:
    """Takes the judged groups of one cell on one rank. A context manager: on success nothing but parquet is left, after
    an error the journal stays for ``recover``. Used by one thread at a time."""

    def __init__(self, folder: Path, *, rank: int, cell: Cell, about: Mapping[str, Any]):
        """``folder``: of the cell, after ``recover``. ``about``: metadata of the parts."""
        self._folder, self._rank, self._cell, self._about = folder, rank, cell, about
        self._journal = _journal_of(folder, rank).open("a", encoding="utf-8")
        self._groups: list[Answers] = []
        self._completions = self._characters = 0

    def add(self, group: Answers) -> None:
        """Keep a group: once this returns, a kill of the process does not lose it."""
        line = _line(group)
        self._journal.write(line)
        self._journal.flush()
        self._groups.append(group)
        self._completions += len(group.texts)
        self._characters += len(line)
        if self._completions >= COMPLETIONS or self._characters >= CHARACTERS:
            self._roll()

    def __enter__(self) -> "AnswersStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._roll()
        finally:
            self._journal.close()
        if kind is None:
            _journal_of(self._folder, self._rank).unlink()

    def _roll(self) -> None:
        """Turn the journal into a part."""
        if self._groups:
            write(_next_part(self._folder, self._rank), self._cell, self._groups, self._about)
        self._journal.truncate(0)
        self._groups, self._completions, self._characters = [], 0, 0


def recover(folder: Path, *, cell: Cell, about: Mapping[str, Any]) -> set[int]:
    """The positions of the prompts that a cell's folder holds, which is made if missing. Journals of killed processes
    become parts. To be called by one process, before any ``AnswersStore`` is opened in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    stored = {position for part in parts(folder) for position in read_positions(part)}
    for journal in sorted(filter(is_journal, folder.iterdir())):
        groups = {group.prompt.position: group for group in _read_journal(journal)}
        if new := [group for position, group in groups.items() if position not in stored]:
            write(_next_part(folder, int(journal.stem.rpartition("_")[2])), cell, new, about)
        stored |= groups.keys()
        journal.unlink()
    return stored


def parts(folder: Path) -> list[Path]:
    """The parquet files of a cell's folder."""
    return sorted(folder.glob("part_*.parquet"))


def is_journal(path: Path) -> bool:
    """Whether a file holds prompts that a stopped or running process has finished, and are in no part yet."""
    return re.fullmatch(r"journal_\d{3,}\.jsonl", path.name) is not None


def _journal_of(folder: Path, rank: int) -> Path:
    return folder / f"journal_{rank:03d}.jsonl"


def _next_part(folder: Path, rank: int) -> Path:
    numbers = [int(part.stem.rpartition("_")[2]) for part in folder.glob(f"part_{rank:03d}_*.parquet")]
    return folder / f"part_{rank:03d}_{max(numbers, default=-1) + 1:05d}.parquet"


def _line(group: Answers) -> str:
    rewards = group.rewards
    record = {
        "position": group.prompt.position,
        "prompt": group.prompt.text,
        "texts": group.texts,
        "keys": group.keys,
        "correct": group.correct,
        "rewards": rewards and [None if math.isnan(reward) else reward for reward in rewards],
        "finished": group.finished,
        "lengths": group.lengths,
    }
    return f"{json.dumps(record)}\n"


def _read_journal(path: Path) -> Iterator[Answers]:
    """The groups of a journal, up to the first line that is not whole: the process was killed while it wrote, or the
    machine went down."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # not UTF-8, or no JSON
                record = None
            if not isinstance(record, dict):
                log.info("%s: line %d is not whole; its prompt is sampled again", path, number)
                return
            yield _group(record)


def _group(record: Mapping[str, Any]) -> Answers:
    return Answers(
        prompt=Prompt(position=record["position"], tokens=(), content=record["prompt"], columns={}),
        texts=tuple(record["texts"]),
        keys=tuple(record["keys"]),
        correct=None if record["correct"] is None else tuple(record["correct"]),
        rewards=None
        if record["rewards"] is None
        else tuple(math.nan if reward is None else reward for reward in record["rewards"]),
        finished=tuple(record["finished"]),
        lengths=tuple(record["lengths"]),
    )
