"""Records of a sweep's jobs, one file each, and the table of them at the sweep's end."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from dqo.cli.report import one_line
from dqo.files.atomic import replacing

LONGEST = 60  # characters of a job's overrides in the table


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


def print_table(title: str, records: Sequence[Record], not_started: Sequence[str]) -> None:
    """Print on stderr how many jobs ended how, and a line of each; ``not_started``: the overrides of the others."""
    counts = Counter([record.result for record in records] + [Result.NOT_STARTED] * len(not_started))
    rows = [(str(record.number), _cut(record.swept), record.result, record.folder) for record in records]
    rows += [("", _cut(swept), Result.NOT_STARTED, "") for swept in not_started]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(f"{title}: {', '.join(f'{counts[each]} {each}' for each in Result if counts[each])}", file=sys.stderr)
    for row, record in zip(rows, [*records, *[None] * len(not_started)], strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print(f"  {'  '.join(cells)}".rstrip(), file=sys.stderr)
        if record is not None and record.result is not Result.DONE:
            for more in filter(None, (record.cause, record.retry and f"type {record.retry}")):
                print(f"      {one_line(more)}", file=sys.stderr)


def _cut(swept: str) -> str:
    text = one_line(swept)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
