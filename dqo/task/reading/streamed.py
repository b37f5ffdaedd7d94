"""Rows that stay on the disk: one pass over the files checks every row and writes an index of where each is.

The index is kept in dqo's cache, so a run that is resumed and the other ranks of a machine do not read all files again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from itertools import compress, groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload, runtime_checkable

import numpy as np

from dqo.errors import ConfigError
from dqo.models.folders import locked_folder
from dqo.progress import LoggedBar
from dqo.task.reading.collection import Rows
from dqo.task.reading.digests import SIZE, digest, fingerprint
from dqo.task.reading.messages import ends_with_assistant, system_text
from dqo.task.reading.permutation import shuffled
from dqo.task.reading.row import Content, Row, joined
from dqo.task.reading.sources import Source
from dqo.task.reading.template_check import kind

log = logging.getLogger(__name__)

VERSION = 1  # of the index's format and of what is checked
INDEX, SPOOL, SUMMARY = "index.bin", "rows.jsonl", "summary.json"  # of a folder of the cache
ENTRY = np.dtype([("source", "<u4"), ("number", "<u4"), ("offset", "<u8"), ("prompt", "<u8")])
WRITTEN = 100_000  # entries at a time
SHOWN = 1_000  # rows between two updates of the progress
EXAMPLES = 1_000  # kinds of rows of which one each is kept, and as many first rows

MakeRow = Callable[[str, dict[str, Any], Sequence[str]], Row]  # source, line, names of all fields


@runtime_checkable
class Fitting(Protocol):
    """Which rows are used."""

    advice: str  # for a user whose rows are all too long

    def fits(self, row: Row) -> bool:
        """Raises ConfigError for a row that is refused."""
        ...

    def depends_on(self) -> list[str]:
        """What ``fits`` depends on, as texts."""
        ...


@dataclass
class Summary:
    """What the pass over all rows found."""

    read: int = 0
    kept: int = 0  # the others are too long
    prefills: int = 0  # rows that end with words of the assistant
    names: dict[str, None] = field(default_factory=dict)  # of fields
    systems: list[str | None] = field(default_factory=list)  # different system turns, at most two
    firsts: list[int] = field(default_factory=list)  # the first kept row of each kind
    fingerprint: str = ""


class StreamedRows(Rows):
    """Rows that are read from the disk whenever one is asked for. In memory are, for each row, 24 bytes of the index's
    file as the system caches it."""

    def __init__(
        self,
        sources: Sequence[Source],
        row: MakeRow,
        folder: Path,
        *,
        left_out: np.ndarray | None = None,
        same: Mapping[int, Sequence[int]] | None = None,
    ):
        """``left_out``: places, in order. ``same``: by place those of other rows with the prompt, which are joined."""
        self._sources, self._row, self._folder = sources, row, folder
        self.summary = Summary(**json.loads((folder / SUMMARY).read_text("utf-8")))
        self._names = list(self.summary.names)
        self._entries = np.memmap(folder / INDEX, dtype=ENTRY, mode="r")
        self._left_out = np.empty(0, np.int64) if left_out is None else left_out
        self._same = same or {}
        self._gaps = self._left_out - np.arange(len(self._left_out))

    def __len__(self) -> int:
        return len(self._entries) - len(self._left_out)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._joined(index + int(np.searchsorted(self._gaps, index, side="right")))

    def _place(self, key: str, offset: int) -> int:
        return shuffled(key, offset, len(self))

    def find(self, content: Content) -> Row | None:
        return self._with_prompt_of(Row(content=content, source=""))

    def fingerprint(self) -> str:
        return f"{len(self)} rows, streamed, {self.summary.fingerprint}"

    def systems(self) -> set[str | None]:
        return set(self.summary.systems)

    def listed(self) -> Sequence[Row]:
        return ()

    def prefills(self) -> int:
        if not self.summary.prefills:
            return 0
        left_out = (self._at(int(place)) for place in self._left_out)
        return self.summary.prefills - sum(ends_with_assistant(row.content) for row in left_out)

    def examples(self) -> Sequence[Row]:
        count = min(EXAMPLES, len(self._entries))
        return [self._at(place) for place in dict.fromkeys([*range(count), *self.summary.firsts])]

    def sources_of(self, prompts: Sequence[Row]) -> Mapping[bytes, str]:
        numbers = np.array([_number(fingerprint(row)) for row in prompts], np.uint64)
        likely = compress(prompts, np.isin(numbers, self._entries["prompt"]))
        found = {fingerprint(row): self._with_prompt_of(row) for row in likely}
        return {prompt: row.source for prompt, row in found.items() if row}

    def hold_out(self, count: Callable[[int], int]) -> tuple["StreamedRows", list[Row]]:
        """Training rows and evaluation rows of different prompts: those with the smallest hashes, so that they are the
        same for every seed. ``count``: how many, by the number of different prompts."""
        prompts = self._entries["prompt"]
        hashes = np.sort(prompts)
        different = 1 + int(np.count_nonzero(hashes[1:] != hashes[:-1]))
        chosen = [each for each, _ in islice(groupby(hashes), count(different))]
        left_out = np.flatnonzero(np.isin(prompts, chosen))
        first = {prompts[place]: self._at(int(place)) for place in left_out[::-1]}
        return StreamedRows(self._sources, self._row, self._folder, left_out=left_out), [first[each] for each in chosen]

    def once(self) -> "StreamedRows":
        """Each prompt once: its first row, joined with the others."""
        _, firsts, which = np.unique(self._entries["prompt"], return_index=True, return_inverse=True)
        left_out = np.delete(np.arange(len(which)), firsts)
        same: dict[int, list[int]] = {}
        for place in left_out:
            same.setdefault(int(firsts[which[place]]), []).append(int(place))
        return StreamedRows(self._sources, self._row, self._folder, left_out=left_out, same=same)

    def _with_prompt_of(self, sought: Row) -> Row | None:
        """The first row with the same prompt."""
        places = np.flatnonzero(self._entries["prompt"] == _number(fingerprint(sought)))
        rows = (self._joined(int(place)) for place in places if place not in self._left_out)
        return next((row for row in rows if (row.content, row.tools) == (sought.content, sought.tools)), None)

    def _joined(self, place: int) -> Row:
        return reduce(joined, map(self._at, self._same.get(place, ())), self._at(place))

    def _at(self, place: int) -> Row:
        entry = self._entries[place]
        source = self._sources[entry["source"]]
        where, line = source.line(int(entry["number"]), int(entry["offset"]), self._folder / SPOOL)
        return self._row(where, line, self._names)


def indexed(sources: Sequence[Source], row: MakeRow, fitting: Fitting, *, depends_on: Sequence[str]) -> StreamedRows:
    """The rows of all sources that fit, checked one by one and indexed; from dqo's cache if these sources were indexed
    before with the same ``depends_on``, what ``row`` depends on, and what ``fitting`` depends on.

    Raises ConfigError for a row that ``row`` or ``fitting`` refuses, and where the index cannot be written.
    """
    name = digest([VERSION, *(source.identity for source in sources), *depends_on, *fitting.depends_on()]).hex()
    try:
        folder = locked_folder(f"rows/{name}", lambda new: _write_index(sources, row, fitting, new))
    except OSError as error:  # reading raises ConfigError
        raise ConfigError(
            f"the index of the rows cannot be written ({error}); set DQO_CACHE=FOLDER in the environment to one with "
            "more space"
        ) from error
    rows = StreamedRows(sources, row, folder)
    if too_long := rows.summary.read - rows.summary.kept:
        log.warning("%d of %d prompts are too long and left out", too_long, rows.summary.read)
    log.info("%s rows stay on the disk; the index of them is %s", f"{len(rows):,}", folder)
    return rows


def _write_index(sources: Sequence[Source], row: MakeRow, fitting: Fitting, folder: Path) -> None:
    reading = _Pass(row, fitting)
    with (folder / SPOOL).open("wb") as spool, (folder / INDEX).open("wb") as index:
        entries = reading.entries(sources, spool)
        while batch := list(islice(entries, WRITTEN)):
            np.array(batch, ENTRY).tofile(index)
    (folder / SUMMARY).write_text(json.dumps(asdict(reading.summary())), "utf-8")


class _Pass:
    """One pass over all rows."""

    def __init__(self, row: MakeRow, fitting: Fitting):
        self._row, self._fitting = row, fitting
        self._found, self._kinds, self._digest = Summary(), set(), hashlib.blake2b(digest_size=SIZE)

    def entries(self, sources: Sequence[Source], spool: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
        """The index's entry of each row that fits. Raises ConfigError for a row that is refused."""
        with LoggedBar(total=sum(source.size for source in sources), desc="checking all rows", unit="B") as bar:
            for number, source in enumerate(sources):
                before = bar.n
                for placed in source.placed(spool):
                    row = self._row(placed.source, placed.line, list(placed.line))
                    self._found.read += 1
                    self._found.names |= dict.fromkeys(placed.line)
                    if self._fitting.fits(row):
                        yield number, placed.number, placed.offset, self._noted(row)
                    if self._found.read % SHOWN == 0:  # of a file that is copied the offset is that in the copy
                        bar.update(before + min(placed.offset, source.size) - bar.n)
                bar.update(before + source.size - bar.n)

    def summary(self) -> Summary:
        """What was found. Raises ConfigError where no row fits."""
        if not self._found.kept:
            raise ConfigError(f"all prompts are too long; type {self._fitting.advice}")
        return replace(self._found, fingerprint=self._digest.hexdigest())

    def _noted(self, row: Row) -> int:
        """The number of the row's prompt, after the row was added to the summary."""
        found, prompt, what = self._found, fingerprint(row), kind(row)
        self._digest.update(prompt + digest([row.columns, row.demonstrations]))
        if what not in self._kinds and len(self._kinds) < EXAMPLES:
            self._kinds.add(what)
            found.firsts.append(found.kept)
        if (system := system_text(row.content)) not in found.systems and len(found.systems) < 2:
            found.systems.append(system)
        found.prefills += ends_with_assistant(row.content)
        found.kept += 1
        return _number(prompt)


def _number(hashed: bytes) -> int:
    return int.from_bytes(hashed[:8], "big")
