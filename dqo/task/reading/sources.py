"""Where rows are read from, one file or data set each: all of them in order, or one of them by its place."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from dqo.errors import ConfigError
from dqo.task.reading.arrow import Numbered, saved_table, table_row, table_rows
from dqo.task.reading.files import BYTE_ORDER_MARK, object_of, raw_lines
from dqo.task.reading.packed import is_packed
from dqo.task.reading.tables import Form, form_of, is_folder, iterated

if TYPE_CHECKING:
    import datasets

LARGE = 200_000_000  # bytes; the rows of smaller files take about three times their size in memory

Line = dict[str, Any]


class Placed(NamedTuple):
    """A line and where it is. Example: number 3, offset 240, source "my.jsonl, line 3"."""

    number: int  # of the line or row, from 1
    offset: int  # of its first byte
    source: str
    line: Line


class Source(ABC):
    """One file or data set."""

    name: str  # for messages
    size: int  # bytes on the disk
    is_array: bool  # one JSON array, which can only be read whole
    identity: str  # changes when the content does

    @abstractmethod
    def lines(self) -> Numbered:
        """All lines, each with where it stands. Raises ConfigError."""

    @abstractmethod
    def placed(self, spool: BinaryIO) -> Iterator[Placed]:
        """All lines with their places, at which ``line`` finds them again. What cannot be read at any place is copied
        to the end of ``spool``. Raises ConfigError."""

    @abstractmethod
    def line(self, number: int, offset: int, spool: Path) -> tuple[str, Line]:
        """The line at a place, and where it stands. Thread-safe."""


class File(Source):
    """A file of the user's: JSON lines are read where they are, unless they are compressed; other formats are
    copied."""

    def __init__(self, path: Path, *, key: str, form: Form | None):
        self.path, self.name, self._key = path, str(path), key
        self._form: Form = form or form_of(path, key=key)
        try:
            status = path.stat()
            with path.open("rb") as file:
                start = file.read(1000).removeprefix(BYTE_ORDER_MARK).lstrip()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
        self.size, self._version = status.st_size, (status.st_size, status.st_mtime_ns)
        self.identity = f"{path.absolute()} {self._version} {self._form}"
        self.is_array = self._form == "json" and start.startswith(b"[")
        self._is_copied = self._form != "json" or is_packed(start)
        self._kind = "row" if self._form == "parquet" else "line"

    def lines(self) -> Numbered:
        return iterated(self.path, key=self._key, form=self._form)

    def placed(self, spool: BinaryIO) -> Iterator[Placed]:
        return self._copied(spool) if self._is_copied else self._in_place()

    def line(self, number: int, offset: int, spool: Path) -> tuple[str, Line]:
        source = f"{self.path}, {self._kind} {number}"
        with (spool if self._is_copied else self.path).open("rb") as file:
            file.seek(offset)
            text = file.readline()
        status = self.path.stat()
        if self._version != (status.st_size, status.st_mtime_ns):
            raise ConfigError(f"{self.path} was changed while the run reads from it; start again with resume=RUN_DIR")
        return source, object_of(text.decode("utf-8-sig").strip(), source)

    def _in_place(self) -> Iterator[Placed]:
        with self.path.open("rb") as file:
            end = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
        is_first = True
        for number, raw in raw_lines(self.path, key=self._key):
            offset, end = end, end + len(raw.encode())
            if text := raw.strip():
                source = f"{self.path}, line {number}"
                yield Placed(number, offset, source, object_of(text, source, is_first=is_first))
                is_first = False
        if is_first:
            raise ConfigError(f"{self.path}: the file is empty; type {self._key}")

    def _copied(self, spool: BinaryIO) -> Iterator[Placed]:
        for source, line in self.lines():
            offset = spool.tell()
            spool.write(_as_json(line, source).encode() + b"\n")
            yield Placed(int(source.rpartition(" ")[2]), offset, source, line)


class Table(Source):
    """A data set of ``datasets``, which is on the disk as Arrow tables."""

    def __init__(self, data: "datasets.Dataset", place: str):
        self._data, self.name, self.is_array = data, place, False
        self.size, self.identity = data.data.nbytes, f"{place} {data._fingerprint}"

    def lines(self) -> Numbered:
        return table_rows(self._data, self.name)

    def placed(self, spool: BinaryIO) -> Iterator[Placed]:
        for number, (source, line) in enumerate(self.lines(), 1):
            yield Placed(number, 0, source, line)

    def line(self, number: int, offset: int, spool: Path) -> tuple[str, Line]:
        return f"{self.name}, row {number}", table_row(self._data, number - 1)


def source_of(path: Path, *, key: str, splits: Sequence[str] = (), form: Form | None = None) -> Source:
    """A file, or a folder that ``datasets.save_to_disk`` has written, as ``tables.iterated`` reads it."""
    if is_folder(path, key=key):
        return Table(*saved_table(path, key, splits))
    return File(path, key=key, form=form)


def are_large(sources: Sequence[Source]) -> bool:
    """Whether rows are better left on the disk. One JSON array can only be read whole."""
    return sum(source.size for source in sources) > LARGE and not any(source.is_array for source in sources)


def _as_json(line: Line, source: str) -> str:
    try:
        return json.dumps(line, ensure_ascii=False)
    except TypeError as error:  # bytes
        raise ConfigError(
            f"{source}: a field has binary data, which only rows in memory can have; type task.streaming=false"
        ) from error
