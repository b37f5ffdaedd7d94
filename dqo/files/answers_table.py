"""Judged completions as parquet, one row a completion: what ``dqo-eval`` samples and can measure again."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dqo.files.atomic import replacing
from dqo.records import Answers, Prompt

ABOUT = b"dqo"  # key of the file's metadata: JSON, see ``read_about``
DECODING = ("temperature", "top_p", "top_k", "min_p")
GROUP = ("policy", *DECODING, "position")  # columns that are equal in the rows of one group
ROWS = 1000  # of a row group: at most this many completions are in memory when a file is read
SCHEMA = pa.schema(
    {
        "policy": pa.string(),  # its name
        "temperature": pa.float64(),  # null, as the three below: the rollout has no such key
        "top_p": pa.float64(),
        "top_k": pa.int64(),
        "min_p": pa.float64(),
        "position": pa.int64(),  # of the prompt
        "i": pa.int32(),  # index of the completion in its group
        "prompt": pa.string(),
        "completion": pa.string(),
        "reward": pa.float32(),  # null: invalid; the column is left out where no reward is known
        "correct": pa.bool_(),  # null: correctness is not defined
        "key": pa.string(),  # equal keys are the same answer
        "finished": pa.bool_(),  # False: truncated
        "length": pa.int32(),  # sampled tokens, end token included
    }
)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens were drawn. None: the rollout has no such setting (``rollout=fake``)."""

    temperature: float | None = None  # 0: greedy
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None

    def settings(self) -> dict[str, int | float]:
        """Those that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One policy with one decoding: what a row of the printed table stands for."""

    policy: str  # its name
    decoding: Decoding


def write(path: Path, cell: Cell, groups: Iterable[Answers], about: Mapping[str, Any]) -> None:
    """Write the groups of one cell, atomically. ``about``: JSON, the file's metadata. All fields of ``Answers`` but
    ``correct`` and ``rewards`` must be known."""
    rows = [row for group in groups for row in _rows(cell, group)]
    schema = SCHEMA.with_metadata({ABOUT: json.dumps(about)})
    if rows and "reward" not in rows[0]:
        schema = schema.remove(schema.get_field_index("reward"))
    with replacing(path) as new:
        pq.write_table(pa.Table.from_pylist(rows, schema), new, compression="zstd", row_group_size=ROWS)


def read(paths: Sequence[Path]) -> Iterator[tuple[Cell, Answers]]:
    """The groups of files that ``write`` wrote, file by file, in bounded memory. Prompts have their text alone, neither
    tokens nor columns."""
    for path in paths:
        for (policy, *decoding, position), rows in groupby(_read_rows(path), key=itemgetter(*GROUP)):
            cell = Cell(policy=policy, decoding=Decoding(**dict(zip(DECODING, decoding, strict=True))))
            yield cell, _answers(position, list(rows))


def read_positions(path: Path) -> set[int]:
    """The positions of the prompts in a file."""
    return set(pq.read_table(path, columns=["position"])["position"].to_pylist())


def read_about(path: Path) -> dict[str, Any]:
    """The metadata of a file that ``write`` wrote: ``about``. Empty for a file of another tool."""
    found = (pq.read_schema(path).metadata or {}).get(ABOUT)
    return json.loads(found) if found else {}


def _rows(cell: Cell, group: Answers) -> list[dict[str, Any]]:
    assert group.finished is not None and group.lengths is not None
    shared = {
        "policy": cell.policy, **asdict(cell.decoding), "position": group.prompt.position, "prompt": group.prompt.text,
    }  # fmt: skip
    return [
        {
            **shared,
            "i": i,
            "completion": text,
            **({} if group.rewards is None else {"reward": _finite(group.rewards[i])}),
            "correct": None if group.correct is None else group.correct[i],
            "key": group.keys[i],
            "finished": group.finished[i],
            "length": group.lengths[i],
        }
        for i, text in enumerate(group.texts)
    ]


def _finite(reward: float) -> float | None:
    return None if math.isnan(reward) else reward


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS):
            yield from batch.to_pylist()


def _answers(position: int, rows: Sequence[Mapping[str, Any]]) -> Answers:
    correct = tuple(row["correct"] for row in rows)
    return Answers(
        prompt=Prompt(position=position, tokens=(), content=rows[0]["prompt"], columns={}),
        texts=tuple(row["completion"] for row in rows),
        keys=tuple(row["key"] for row in rows),
        correct=None if None in correct else correct,
        rewards=None
        if "reward" not in rows[0]
        else tuple(math.nan if row["reward"] is None else row["reward"] for row in rows),
        finished=tuple(row["finished"] for row in rows),
        lengths=tuple(row["length"] for row in rows),
    )
