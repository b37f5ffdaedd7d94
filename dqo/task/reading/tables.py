"""``read_rows``: the rows of a user's file or folder, in whichever format it is.

JSON lines, one JSON array, csv, Parquet, and the folders that ``datasets.save_to_disk`` writes. Values are JSON's:
numbers, text, lists, objects; binary data stays bytes. Everything in a csv file is text.
"""

import csv
import io
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, cast

from dqo.errors import ConfigError
from dqo.models.folders import as_typed, first_line
from dqo.task.reading.files import raw_lines, read_json, repeated

log = logging.getLogger(__name__)

PARQUET = b"PAR1"  # a Parquet file's first bytes
DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072
BATCH = 1000  # rows that are converted at a time

Numbered = Iterator[tuple[str, dict[str, Any]]]


def read_rows(path: Path, *, key: str, splits: Sequence[str] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The rows, each with where it stands: "my.csv, line 3", "my.parquet, row 3".

    The first bytes tell Parquet and gzip, the first character one JSON array, the name csv (``.csv``, ``.tsv``, and
    both with ``.gz``); any other file has JSON lines. ``splits``: those of a saved DatasetDict that are looked for; the
    first that is there is read.

    Raises ConfigError, with the row where one is at fault; ``key`` is what to type instead: "task.path=FILE".
    """
    path = Path(as_typed(str(path.expanduser())))
    name = path.name.lower().removesuffix(".gz")
    try:
        if path.is_dir():
            rows = _saved(path, key, splits)
        else:
            with path.open("rb") as file:
                is_parquet = file.read(len(PARQUET)) == PARQUET or name.endswith(".parquet")
            is_csv = name.endswith((".csv", ".tsv"))
            rows = _parquet(path, key) if is_parquet else _csv(path, key) if is_csv else read_json(path, key=key)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
    if not (found := list(rows)):
        raise ConfigError(f"{path} has no rows; type {key}")
    return found


def is_saved_dict(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` has written the folder for a data set with splits; each is a folder in it."""
    return (folder / "dataset_dict.json").is_file()


def _csv(path: Path, key: str) -> Numbered:
    """The rows of a file whose first line names the columns; an empty cell is None. The delimiter is the one that
    splits the first line into most names."""
    parts = (io.StringIO(line, newline="") for _, line in raw_lines(path, key=key))
    lines = chain.from_iterable(parts)  # which end in LF, CRLF or, as Excel for the Mac writes them, CR
    before, first = next(((number, line) for number, line in enumerate(lines) if line.strip()), (0, ""))
    if not first:
        raise ConfigError(f"{path}: the file is empty; type {key}")
    if first.lstrip().startswith(("{", "[")):
        raise ConfigError(f"{path} holds JSON, not csv; give it a name that ends in .jsonl, or type {key}")
    delimiter = max(DELIMITERS, key=lambda each: len(next(csv.reader([first], delimiter=each))))
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True)
    start = before + 1  # the line at which a row begins; it may have several
    try:
        names = _column_names(next(reader), path)
        start = before + reader.line_num + 1
        for cells in reader:
            if cells and not (len(cells) == 1 < len(names) and not cells[0].strip()):  # else a blank line
                yield f"{path}, line {start}", _csv_row(names, cells, f"{path}, line {start}", delimiter)
            start = before + reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{path}, line {start}: not csv ({error}); mend the double quotes") from error


def _column_names(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    _refuse_repeated([name for name in names if name], path)
    if "" in names:  # pandas' index
        log.info("%s: the column without a name is left out", path)
    return names


def _csv_row(names: Sequence[str], cells: Sequence[str], where: str, delimiter: str) -> dict[str, Any]:
    if len(cells) != len(names):
        raise ConfigError(
            f"{where}: {len(cells)} values, but the first line names {len(names)} columns; put double quotes around a "
            f"value that contains {delimiter!r} or a line end"
        )
    return {name: cell or None for name, cell in zip(names, cells, strict=True) if name}


def _parquet(path: Path, key: str) -> Numbered:
    import pyarrow  # imported here, as below: few runs read such files
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _refuse_repeated(file.schema_arrow.names, path)
            batches = (batch.to_pylist(maps_as_pydicts="strict") for batch in file.iter_batches(BATCH))
            yield from _numbered(chain.from_iterable(batches), str(path))
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({first_line(error)}); type {key}") from error


def _saved(path: Path, key: str, splits: Sequence[str]) -> Numbered:
    """The rows of a folder that ``datasets.save_to_disk`` has written."""
    if not is_saved_dict(path) and not (path / "state.json").is_file():
        raise ConfigError(f"{path} is a folder that datasets.save_to_disk has not written; type {key}")
    import datasets
    import pyarrow

    place = str(path)
    try:
        data = datasets.load_from_disk(place)
        if isinstance(data, datasets.DatasetDict):
            split = _split([str(name) for name in data], splits, path, key)
            data, place = data[split], f"{place}/{split}"
        _refuse_repeated(data.column_names, path)
        # as Arrow tables, not in the format that was saved with the data: tensors, data frames
        tables = cast(Iterator[pyarrow.Table], data.with_format("arrow").iter(BATCH))
        rows = chain.from_iterable(table.to_pylist(maps_as_pydicts="strict") for table in tables)
        yield from _numbered(rows, place)
    except ConfigError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, LookupError, TypeError) as error:  # files missing or damaged
        raise ConfigError(f"{path}: datasets cannot read the folder ({first_line(error)}); type {key}") from error


def _split(there: Sequence[str], wanted: Sequence[str], path: Path, key: str) -> str:
    """The split of a saved DatasetDict that is read."""
    if len(there) == 1:
        return there[0]
    split = next((split for split in wanted if split in there), None)
    if split is None:
        name = key.partition("=")[0]
        raise ConfigError(f"{path} has the splits {', '.join(there)}; type {name}={path}/{there[0]} for one of them")
    log.info("%s has the splits %s: %s is read", path, ", ".join(there), split)
    return split


def _refuse_repeated(names: Sequence[str], path: Path) -> None:
    if name := repeated(names):
        raise ConfigError(f'{path}: two columns are called "{name}"; rename one of them')


def _numbered(rows: Iterable[Mapping[str, Any]], place: str) -> Numbered:
    for number, row in enumerate(rows, 1):
        yield f"{place}, row {number}", {name: _json(value) for name, value in row.items()}


def _json(value: Any) -> Any:
    """A value of an Arrow table as JSON has it. NaN, pandas' missing value, becomes None; dates, times and decimals
    become text. Objects lose the fields that are null: all objects of an Arrow column have the same fields, so there
    null means that the field is absent (but for a message's content, which is null beside tool calls)."""
    if isinstance(value, Mapping):
        return {name: _json(inner) for name, inner in value.items() if inner is not None or name == "content"}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int | bytes) else str(value)
