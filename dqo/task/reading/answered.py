"""Training rows with an example answer, for supervised fine-tuning."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

from dqo.errors import ConfigError
from dqo.task.reading.collection import ListedRows, Rows
from dqo.task.reading.lengths import Lengths, counted
from dqo.task.reading.messages import ends_with_assistant
from dqo.task.reading.row import Row
from dqo.task.reading.streamed import StreamedRows

log = logging.getLogger(__name__)

MISSES = 10_000  # rows on the disk, one after the other, without an answer that fits: there may be none
NONE = (
    "this task has no answers to learn from; type task=concepts, task=countdown, task=gsm8k, task=commongen, or "
    "task=jsonl task.completion_column=NAME"
)


class Answered:
    """The training rows with an example answer that fit into the context with it. Where no row has an answer of its
    own, those of conversations that end with the assistant's words."""

    def __init__(self, training: Rows, lengths: Lengths):
        self._training, self._lengths = training, lengths

    def in_order(self, key: str) -> Iterator[Row]:
        """The endless shuffled order that ``key`` chooses. Raises ConfigError if no row has an answer."""
        if isinstance(self._training, StreamedRows):
            return self._found(self._training, key)
        if not self._fitting:
            raise ConfigError(NONE)
        return (self._fitting.at(key, position) for position in itertools.count())

    @cached_property
    def _fitting(self) -> ListedRows:
        """Found once, since it renders all rows."""
        rows = _answered(self._training)
        fitting = [row for row in rows if self._lengths.answers_fit(row)]
        return ListedRows(counted(fitting, rows, "prompts with an example answer") if rows else [])

    def _found(self, training: StreamedRows, key: str) -> Iterator[Row]:
        """Rows on the disk are not all looked at: those without an answer that fits are passed over."""
        misses, passed_over = 0, 0
        for position in itertools.count():
            if misses == MISSES:
                raise ConfigError(NONE if misses == position else f"{misses:,} rows have no answer that fits; add some")
            rows = _answered([training.at(key, position)])
            if rows and self._lengths.answers_fit(rows[0]):
                misses = 0
                yield rows[0]
                continue
            misses, passed_over = misses + 1, passed_over + 1
            if passed_over.bit_count() == 1:  # 1, 2, 4, 8 …
                log.warning("%d rows have no example answer that fits and are passed over", passed_over)


def _answered(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    return [row for row in rows if row.demonstrations] or _last_messages_as_answers(rows)


def _last_messages_as_answers(rows: Iterable[Row]) -> list[Row]:
    """Conversations that end with the assistant's words, those being the example answer."""
    split = [
        (row, row.content) for row in rows if not isinstance(row.content, str) and ends_with_assistant(row.content)
    ]
    return [
        replace(row, content=content[:-1], demonstrations=(content[-1]["content"],))
        for row, content in split
        if len(content) > 1
    ]
