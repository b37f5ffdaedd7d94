"""``read_rows``: the rows of a user's file or folder, in whichever format it is.

JSON lines, one JSON array, csv, Parquet, and the folders that ``datasets.save_to_disk`` writes. Values are JSON's:
numbers, text, lists, objects; binary data stays bytes. Everything in a csv file is text.
"""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from dqo.errors import ConfigError
from dqo.models.folders import as_typed
from dqo.task.reading.arrow import Numbered, parquet_rows, refuse_repeated, saved_rows
from dqo.task.reading.files import raw_lines, read_json
from dqo.task.reading.packed import without_ending

log = logging.getLogger(__name__)

PARQUET = b"PAR1"  # a Parquet file's first bytes
DELIMITERS = ",;\t|"
LONGEST_CELL = 2**31 - 1  # characters; Python's own limit is 131,072

Form = Literal["json", "csv", "parquet"]  # json: JSON lines, or one JSON array of objects


def read_rows(
    path: Path, *, key: str, splits: Sequence[str] = (), form: Form | None = None
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of ``iterated``, all of them in memory."""
    return list(iterated(path, key=key, splits=splits, form=form))


def iterated(path: Path, *, key: str, splits: Sequence[str] = (), form: Form | None = None) -> Numbered:
    """The rows one at a time, each with where it stands: "my.csv, line 3", "my.parquet, row 3".

    ``form``: the file's format; None: ``form_of`` tells. ``splits``: those of a saved DatasetDict that are looked for;
    the first that is there is read.

    Raises ConfigError, with the row where one is at fault; ``key`` is what to type instead: "task.path=FILE".
    """
    path = Path(as_typed(str(path.expanduser())))
    if is_folder(path, key=key):
        rows = saved_rows(path, key, splits)
    else:
        rows = READERS[form or form_of(path, key=key)](path, key)
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise ConfigError(f"{path} has no rows; type {key}")


def form_of(path: Path, *, key: str) -> Form:
    """A file's format: the first bytes tell Parquet, the name csv (``.csv``, ``.tsv``, and both compressed); any other
    file has JSON. Raises ConfigError for a file that cannot be read."""
    name = without_ending(path.name.lower())
    try:
        with path.open("rb") as file:
            is_parquet = file.read(len(PARQUET)) == PARQUET or name.endswith(".parquet")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
    return "parquet" if is_parquet else "csv" if name.endswith((".csv", ".tsv")) else "json"


def is_folder(path: Path, *, key: str) -> bool:
    """Raises ConfigError for a path that no file can have."""
    try:
        return path.is_dir()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error


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
    refuse_repeated([name for name in names if name], path)
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


READERS: dict[Form, Callable[[Path, str], Numbered]] = {
    "json": lambda path, key: read_json(path, key=key),
    "csv": _csv,
    "parquet": parquet_rows,
}
