"""Public data sets with splits: read from a folder or the hub, each prompt once, held-out prompts that are not trained
on."""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.task.reading.arrow import hub_tables, is_saved_dict
from dqo.task.reading.digests import fingerprint
from dqo.task.reading.files import read_lines
from dqo.task.reading.row import Row, joined
from dqo.task.reading.sources import Source, Table, are_large, source_of
from dqo.task.reading.streamed import Fitting, StreamedRows, indexed

log = logging.getLogger(__name__)

NAMES = (  # under which a split is found where upstream's file is not there: the layouts of repositories on the hub
    "{}.jsonl", "{}.jsonl.gz", "{}.json", "{}.parquet", "{}.csv", "{}-*.parquet", "data/{}-*.parquet", "{}/*.parquet",
)  # fmt: skip

Numbered = Iterable[tuple[str, Mapping[str, Any]]]  # rows, each with where it stands: "train.jsonl, line 3"
MakeRow = Callable[[str, Mapping[str, Any]], Row]  # where the fields stand, the fields


@dataclass(frozen=True)
class Split:
    """The rows of one split, read when they are iterated."""

    sources: Sequence[Source]

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return chain.from_iterable(source.lines() for source in self.sources)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Where a data set is found. Example: hub "openai/gsm8k", subset "main", files {"train": "train.jsonl", …}."""

    hub: str  # repository
    files: Mapping[str, str]  # upstream's file of each split, by the split's name on the hub
    subset: str | None = None
    revision: str | None = None
    folder: str | None = None  # the part of the repository

    def read(self, splits: Sequence[str], data_dir: str | None) -> list[Split]:
        """The splits: from a folder with upstream's files, the parquet files
        of a repository or what ``datasets.save_to_disk`` wrote; None: from the hub. Raises ConfigError, with what to
        type."""
        files = " and ".join(self.files[split] for split in splits)
        if data_dir is not None:
            key = f"task.data_dir=FOLDER with {files}"
            return [self._in_folder(Path(data_dir).expanduser(), split, key) for split in splits]
        tables = hub_tables(self.hub, self.subset, splits, revision=self.revision, folder=self.folder, files=files)
        return [Split([Table(*table)]) for table in tables]

    def _in_folder(self, folder: Path, split: str, key: str) -> Split:
        path = folder / (split if is_saved_dict(folder) else self.files[split])
        if not path.exists():
            names = (sorted(folder.glob(name.format(split))) for name in NAMES)
            if paths := next((paths for paths in names if paths), None):
                return Split([source_of(path, key=key) for path in paths])
        return Split([source_of(path, key=key)])


def aligned_lines(first: Path, second: Path, *, key: str) -> list[tuple[int, str, str]]:
    """The lines of two files of which line n belongs to line n, with n. Raises ConfigError if one has a line that is
    blank or missing in the other; the message ends in "type ``key``"."""
    one, other = (dict(read_lines(path, key=key)) for path in (first, second))
    if unmatched := one.keys() ^ other.keys():
        raise ConfigError(f"{first}, line {min(unmatched)}: it and {second.name} do not match line by line; type {key}")
    return [(number, text, other[number]) for number, text in one.items()]


def texts_of(fields: Mapping[str, Any], names: Sequence[str], source: str) -> list[str]:
    """The fields of these names. Raises ConfigError where one is not text or empty."""
    values = [fields.get(name) for name in names]
    if not all(isinstance(value, str) and value.strip() for value in values):
        quoted, are = " and ".join(f'"{name}"' for name in names), "is" if len(names) == 1 else "are"
        raise ConfigError(f"{source}: {quoted} {are} needed as text; the row has {', '.join(fields) or 'nothing'}")
    return [str(value) for value in values]


def one_per_prompt(rows: Iterable[Row]) -> list[Row]:
    """The first row of each prompt, with the demonstrations and references of all rows with that prompt."""
    found: dict[bytes, Row] = {}
    for row in rows:
        key = fingerprint(row)
        found[key] = joined(found[key], row) if key in found else row
    return list(found.values())


def training_rows(split: Split, row: MakeRow, fitting: Fitting) -> Sequence[Row]:
    """One row per prompt, as ``one_per_prompt`` makes it. The rows of a large split stay on the disk; those that do not
    fit are then left out already."""
    if not are_large(split.sources):
        return one_per_prompt(row(*numbered) for numbered in split)
    first = row(*next(iter(split)))  # differs where ``row`` makes other prompts of the same fields
    return indexed(split.sources, lambda source, line, _: row(source, line), fitting, depends_on=[repr(first)]).once()


def held_out_rows(evaluation: Iterable[Row], training: Sequence[Row], count: int) -> list[Row]:
    """``count`` rows of an evaluation split, the same for every seed, whose prompts differ and are not trained on. Logs
    how many are left out. Raises ConfigError if there are fewer than ``count``."""
    rows = one_per_prompt(evaluation)
    is_streamed = isinstance(training, StreamedRows)
    trained = training.sources_of(rows) if is_streamed else {fingerprint(row) for row in training}
    fresh = [row for row in rows if fingerprint(row) not in trained]
    if len(fresh) < len(rows):
        log.warning(
            "%d of %d held-out prompts are training prompts too and are left out", len(rows) - len(fresh), len(rows)
        )
    if count > len(fresh):
        raise ConfigError(f"task.held_out={count}: 1 to {len(fresh)} can be; type task.held_out={len(fresh)}")
    random.Random("held out").shuffle(fresh)  # some splits are sorted by kind
    return fresh[:count]


def split_by_hash(rows: Sequence[Row], held_out: int) -> tuple[list[Row], list[Row]]:
    """Training rows and ``held_out`` evaluation rows: those whose prompts have the smallest hashes, the same for every
    seed. ``rows`` have different prompts. Raises ConfigError if no row would be left to train on."""
    if held_out >= len(rows):
        most = len(rows) - 1
        advice = f"type task.held_out={most}" if most else "add rows"
        raise ConfigError(f"task.held_out={held_out}: of {len(rows)} prompts some must be left to train on; {advice}")
    chosen = sorted(range(len(rows)), key=lambda number: fingerprint(rows[number]))[:held_out]
    evaluation = set(chosen)
    return [row for number, row in enumerate(rows) if number not in evaluation], [rows[number] for number in chosen]
