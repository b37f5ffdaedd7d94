"""The training rows of a task: a collection with an endless shuffled order."""

import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import overload

from dqo.task.reading.digests import fingerprint, rows_fingerprint
from dqo.task.reading.messages import ends_with_assistant, system_text
from dqo.task.reading.row import Content, Row


class Rows(Sequence[Row]):
    """Rows that can be read in any order, from any thread."""

    def at(self, seed: str, position: int) -> Row:
        """The row at a position of the endless order that ``seed`` chooses: each epoch has all rows in a new one."""
        epoch, offset = divmod(position, len(self))
        return self[self._place(f"{seed} {epoch}", offset)]

    @abstractmethod
    def _place(self, key: str, offset: int) -> int:
        """The index of the row at ``offset`` of the order that ``key`` chooses."""

    @abstractmethod
    def find(self, content: Content) -> Row | None:
        """The first row with this content and without tools."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A text that differs for rows with other content or in another order."""

    @abstractmethod
    def systems(self) -> set[str | None]:
        """The different system turns; of more than two two."""

    @abstractmethod
    def prefills(self) -> int:
        """The number of rows that end with words of the assistant."""

    @abstractmethod
    def examples(self) -> Sequence[Row]:
        """Rows of all kinds, for what depends on the kind alone: all of them, if they are in memory."""

    @abstractmethod
    def sources_of(self, prompts: Sequence[Row]) -> Mapping[bytes, str]:
        """Where rows with the same prompts come from, by the prompt's fingerprint; other rows may be there, too."""

    @abstractmethod
    def listed(self) -> Sequence[Row]:
        """All rows, if they are in memory; else none."""


class ListedRows(Rows):
    """Rows in memory."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        return self._rows[index]

    def _place(self, key: str, offset: int) -> int:
        return _order(key, len(self))[offset]

    def find(self, content: Content) -> Row | None:
        return next((row for row in self._rows if row.content == content), None)

    def fingerprint(self) -> str:
        return rows_fingerprint(self._rows)

    def systems(self) -> set[str | None]:
        return {system_text(row.content) for row in self._rows}

    def prefills(self) -> int:
        return sum(ends_with_assistant(row.content) for row in self._rows)

    def examples(self) -> Sequence[Row]:
        return self._rows

    def sources_of(self, prompts: Sequence[Row]) -> Mapping[bytes, str]:
        return {fingerprint(row): row.source for row in self._rows}

    def listed(self) -> Sequence[Row]:
        return self._rows


@lru_cache(maxsize=4)
def _order(key: str, count: int) -> list[int]:
    """The row numbers in the order of one epoch."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order
