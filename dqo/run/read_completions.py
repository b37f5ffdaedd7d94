"""Completions to measure: the tables that dqo-eval wrote, and tables of other tools (parquet, jsonl, csv)."""

import logging
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dqo.errors import ConfigError
from dqo.files.answers_store import is_journal
from dqo.files.answers_table import DECODING, Cell, Decoding, read, read_about
from dqo.models.folders import first_line
from dqo.records import Answers, Prompt
from dqo.task.reading.tables import read_rows

log = logging.getLogger(__name__)

KEY = "from=FILE"  # what messages tell to type
ENDINGS = (".parquet", ".jsonl", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
COMPLETION = ("completion", "text", "response")  # names of the column, the first that is there
NEEDED = "needed are prompt (or position) and completion (or text, response)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """The completions of one folder or file of ``from=``."""

    name: str  # tells sources apart that have a policy of one name
    files: tuple[Path, ...]  # that dqo-eval wrote, read in bounded memory; empty: the groups are in memory
    foreign: tuple[tuple[Cell, Answers], ...]
    abouts: Mapping[Cell, Mapping[str, Any]]  # what dqo-eval wrote beside the completions; empty for other tables

    def groups(self) -> Iterator[tuple[Cell, Answers]]:
        """Each prompt's completions by each policy with each decoding."""
        yield from read(self.files)
        yield from self.foreign

    def counts(self) -> Counter[int]:
        """How many prompts have how many completions, over all policies."""
        counts = Counter(len(answers.texts) for _, answers in self.foreign)
        for file in self.files:
            n = int(read_about(file)["n"])
            counts[n] += _rows(file) // n
        return counts


def own_source(folder: Path) -> Source:
    """The completions that dqo-eval has written into a folder, those of a policy in a folder of their own."""
    files = sorted(folder.rglob("*.parquet"), key=lambda file: (_number_of(file.parent), file))
    filled = [file for file in files if _rows(file)]
    first = [next(parts) for _, parts in groupby(filled, key=lambda file: file.parent)]  # of policies and decodings
    abouts = {next(read([file]))[0]: read_about(file) for file in first}
    return Source(name=folder.name, files=tuple(files), foreign=(), abouts=abouts)


def _number_of(folder: Path) -> int:
    """The number that a folder's name begins with: 10 of "10_alpha=1"."""
    number = folder.name.partition("_")[0]
    return int(number) if number.isdecimal() else 0


def open_sources(paths: Sequence[str]) -> list[Source]:
    """What ``from=`` names. Raises ConfigError for a path that is not there, and for tables without rows or without the
    columns that are needed."""
    positions: dict[str, int] = {}  # of prompts in tables without this column, by their text: the same in all tables
    sources = [_open(Path(path).expanduser(), positions) for path in paths]
    names = Counter(source.name for source in sources)
    return [
        source if names[source.name] == 1 else replace(source, name=path)
        for source, path in zip(sources, paths, strict=True)
    ]


def _open(path: Path, positions: dict[str, int]) -> Source:
    files = _files(path)
    if run := next((file.absolute().parents[2] for file in files if _is_of_unfinished_run(file)), None):
        raise ConfigError(f"from={path}: its sampling has not ended; type dqo-eval resume={shlex.quote(str(run))}")
    own = [file for file in files if _is_own(file)]
    if own and len(own) < len(files):
        other = next(file for file in files if file not in own)
        raise ConfigError(f"from={path}: dqo-eval did not write {other.name}, but others there; type the files apart")
    name = path.parent.name if path.name == "completions" else path.name.partition(".")[0]
    if not own:
        foreign = tuple(group for file in files for group in _foreign_groups(file, positions))
        return Source(name=name, files=(), foreign=foreign, abouts={})
    if not any(_rows(file) for file in own):
        raise ConfigError(f"from={path}: there are no rows; type {KEY}")
    source = own_source(path) if path.is_dir() else _own_file(path)
    return replace(source, name=name)


def _own_file(file: Path) -> Source:
    cell, _ = next(read([file]))
    return Source(name=file.stem, files=(file,), foreign=(), abouts={cell: read_about(file)})


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"from={path}: there is no such file or folder; type {KEY}")
    if path.is_file():
        return [path]
    folder = path / "completions" if (path / "completions").is_dir() else path
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name.lower().endswith(ENDINGS))
    if not files:
        raise ConfigError(f"from={path}: the folder has no parquet, jsonl or csv file; type {KEY}")
    return files


def _is_of_unfinished_run(file: Path) -> bool:
    return is_journal(file) and file.absolute().parents[1].name == "completions"


def _is_parquet(file: Path) -> bool:
    with file.open("rb") as opened:
        return file.suffix == ".parquet" or opened.read(4) == b"PAR1"


def _is_own(file: Path) -> bool:
    """Whether dqo-eval wrote the file. Raises ConfigError for a file that is called parquet and is none."""
    if not _is_parquet(file):
        return False
    try:
        return bool(read_about(file))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{file}: cannot be read as Parquet ({first_line(error)}); type {KEY}") from error


def _rows(file: Path) -> int:
    return pq.read_metadata(file).num_rows


def _foreign_groups(file: Path, positions: dict[str, int]) -> Iterator[tuple[Cell, Answers]]:
    """The groups of a table of another tool; its rows are read into memory."""
    rows = read_rows(file, key=KEY)
    names = dict.fromkeys(name for _, row in rows for name in row)  # JSON lines may leave out what is null
    text = next((name for name in COMPLETION if name in names), None)
    if text is None or not {"prompt", "position"} & names.keys():
        raise ConfigError(f"{file}: has the columns {', '.join(names)}; {NEEDED}; rename them")
    groups: dict[tuple[Cell, int, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for where, row in rows:
        prompt = _prompt(row, where, positions)
        groups.setdefault((_cell(row, where, file), prompt.position, prompt.text), []).append((where, row))
    for (cell, position, content), members in groups.items():
        prompt = Prompt(position=position, tokens=(), content=content, columns={})
        yield cell, _answers(prompt, members, text, names.keys())


def _prompt(row: Mapping[str, Any], where: str, positions: dict[str, int]) -> Prompt:
    """The prompt with its text; without the column ``position`` equal texts are one prompt."""
    content, position = row.get("prompt"), _number(row.get("position"), int, where)
    if content is None and position is None:
        raise ConfigError(f"{where}: neither prompt nor position has a value; {NEEDED}")
    said = f"prompt {position}" if content is None else tuple(content) if isinstance(content, list) else str(content)
    text = Prompt(position=0, tokens=(), content=said, columns={}).text
    place = positions.setdefault(text, len(positions)) if position is None else position
    return Prompt(position=place, tokens=(), content=text, columns={})


def _cell(row: Mapping[str, Any], where: str, file: Path) -> Cell:
    kinds = {"temperature": float, "top_p": float, "top_k": int, "min_p": float}
    decoding = {name: _number(row[name], kinds[name], where) for name in DECODING if row.get(name) is not None}
    return Cell(policy=str(row.get("policy") or file.name.partition(".")[0]), decoding=Decoding(**decoding))


def _answers(prompt: Prompt, members: Sequence[tuple[str, Mapping[str, Any]]], text: str, names: Any) -> Answers:
    """The completions of one prompt. A column that the table does not have is None; in a ``reward`` that it has, null
    is an invalid completion, and so is one that is not ``valid`` (completions of a training step)."""
    texts = tuple(_text(row.get(text), where) for where, row in members)
    keys = (row.get("key") for _, row in members)
    rewards = [_number(row.get("reward"), float, where) for where, row in members]
    valid = [_truth(row.get("valid"), where) is not False for where, row in members]
    unknown = "reward" not in names
    return Answers(
        prompt=prompt,
        texts=texts,
        keys=tuple(said.strip() if key is None else str(key) for key, said in zip(keys, texts, strict=True)),
        correct=_known([_truth(row.get("correct"), where) for where, row in members]),
        rewards=None
        if unknown
        else tuple(
            reward if reward is not None and ok else math.nan for reward, ok in zip(rewards, valid, strict=True)
        ),
        finished=_known([_truth(row.get("finished"), where) for where, row in members]),
        lengths=_known([_number(row.get("length"), int, where) for where, row in members]),
    )


def _known(values: Sequence[Any]) -> tuple[Any, ...] | None:
    """The values; None if one of them is not known."""
    return None if None in values else tuple(values)


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""  # csv has no other way to write an empty completion
    if not isinstance(value, str):
        raise ConfigError(f"{where}: the completion is {value!r:.60}, and text is needed; mend the row")
    return value


def _number(value: Any, kind: type[float] | type[int], where: str) -> Any:
    """A number, or None; in a csv file all values are text."""
    if value is None:
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {value!r:.60} is no number; mend the row") from error
    return number


def _truth(value: Any, where: str) -> bool | None:
    """True or False, or None; in a csv file "true", "False", "1" …"""
    if value is None or isinstance(value, bool):
        return value
    known = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if (text := str(value).strip().lower()) not in known:
        raise ConfigError(f"{where}: {value!r:.60} is neither true nor false; mend the row")
    return known[text]
