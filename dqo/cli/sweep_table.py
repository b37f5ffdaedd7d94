"""Records of a sweep's jobs, one file each, and the table of them at the sweep's end."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dqo.cli.report import one_line
from dqo.files.atomic import replacing

LONGEST = 60  # characters of a job's overrides in the table
QUALITY, DIVERSITY = ("pass@1", "reward"), ("distinct_correct", "cosine_distance")  # the first that all jobs define
NONE = "–"


class Result(StrEnum):
    """How a job ended."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"  # wrong input: nothing was trained
    STOPPED = "stopped"
    UNFINISHED = "not ended"  # its process is gone without a word, or was not waited for
    NOT_STARTED = "not started"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One job. Example: job 1 of ``-m alpha=0,1 run_dir=x``: swept "alpha=1", folder "x/1_alpha=1"."""

    number: int
    swept: str
    folder: str
    result: Result
    cause: str  # one line; empty: none
    retry: str  # the command that goes on with this job, or starts it again; empty: none


def write(record: Record, folder: Path) -> None:
    """Write a job's record into the folder, over an earlier one."""
    with replacing(folder / f"{record.number}.json") as file:
        file.write_text(json.dumps(asdict(record)), "utf-8")


def read(folder: Path) -> list[Record]:
    """The records in the folder, in the order of the jobs."""
    found = [json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")]
    records = [Record(**{**fields, "result": Result(fields["result"])}) for fields in found]
    return sorted(records, key=lambda record: record.number)


def print_table(title: str, records: Sequence[Record], not_started: Sequence[str]) -> bool:
    """Print on stderr how many jobs ended how, and a line of each with what it reached; ``not_started``: the overrides
    of the others. Returns whether any job has such numbers."""
    counts = Counter([record.result for record in records] + [Result.NOT_STARTED] * len(not_started))
    names, numbers = _numbers(records)
    rows = [["", "", "", *names, ""]] if names else []
    rows += [
        [str(record.number), _cut(record.swept), record.result, *cells, record.folder]
        for record, cells in zip(records, numbers, strict=True)
    ]
    rows += [["", _cut(swept), Result.NOT_STARTED, *[""] * len(names), ""] for swept in not_started]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{title}: {', '.join(f'{counts[each]} {each}' for each in Result if counts[each])}", file=sys.stderr)
    of_rows = [*([None] if names else []), *records, *[None] * len(not_started)]
    for row, record in zip(rows, of_rows, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"  {'  '.join(cells)}".rstrip(), file=sys.stderr)
        if record is not None and record.result is not Result.DONE:
            for more in filter(None, (record.cause, record.retry and f"type {record.retry}")):
                print(f"      {one_line(more)}", file=sys.stderr)
    return bool(names)


def _numbers(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """The names of a metric of quality and one of diversity that all finished jobs define, and their values, before →
    after, of each job; no names where no job has left a summary."""
    summaries = [_summary(record) for record in records]
    known = [summary for summary in summaries if summary]
    if not known:
        return [], [[] for _ in records]
    names = [
        next((name for name in group if all(_value(each, "after", name) != NONE for each in known)), group[-1])
        for group in (QUALITY, DIVERSITY)
    ]
    return names, [
        [f"{_value(each, 'before', name)} → {_value(each, 'after', name)}" if each else "" for name in names]
        for each in summaries
    ]


def _summary(record: Record) -> dict[str, Any] | None:
    file = Path(record.folder) / "summary.json"
    return json.loads(file.read_text("utf-8")) if record.result is Result.DONE and file.exists() else None


def _value(summary: Mapping[str, Any], when: str, name: str) -> str:
    value = summary.get(when, {}).get(name)
    return NONE if value is None else f"{value:.3f}"


def _cut(swept: str) -> str:
    text = one_line(swept)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
