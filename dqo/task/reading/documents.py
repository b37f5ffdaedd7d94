"""Prompts that contain a long document. Where a prompt is too long, sentences are left out of the document, never of
the instruction."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo import distributed
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.sentences import sentences, words_with_space
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Row
from dqo.task.reading.rows import RowTask
from dqo.task.reading.settings import Rendering

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """See conf/task/cnn_dailymail.yaml."""

    max_prompt_length: Annotated[int | None, Field(ge=1, examples=[1024])]  # tokens; None: what the context leaves
    cut: Annotated[Literal["end", "start", "none"], Field(examples=["end"])]


class Cutter:
    """Leaves sentences out of the document of a prompt with more than ``max_prompt_length`` tokens: whole ones at the
    document's end or start; where not even one sentence fits, words, and where not even one word fits, characters.

    Methods are pure and may be called from any thread.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context_length: int, rendering: Rendering, cutting: Cutting):
        room = context_length - rendering.max_completion_length
        self.limit, self.cut = cutting.max_prompt_length or room, cutting.cut
        self.advice = (
            "model=NAME of a model with a longer context, or a smaller max_completion_length"
            if cutting.max_prompt_length is None
            else "task.max_prompt_length=NUMBER"
        )
        self._renderer = Renderer(tokenizer, rendering)
        self._fitting = dict[tuple[str, str], bool]()  # by the text around a document, which many rows share
        if self.limit > room:
            raise ConfigError(
                f"task.max_prompt_length={self.limit}: with max_completion_length={rendering.max_completion_length} "
                f"more than the model's context of {context_length}; type task.max_prompt_length={max(1, room)}"
            )

    def depends_on(self) -> list[str]:
        """What ``fits`` depends on, as texts."""
        return [*self._renderer.depends_on(), f"{self.limit} {self.cut}"]

    def fits(self, row: Row) -> bool:
        """Whether the prompt is short enough, or would be without its document."""
        if row.document is None or self.cut == "none":
            return self._is_short(row)
        before, _, after = _parts(row)
        if (before, after) not in self._fitting:
            self._fitting[before, after] = self._is_short(replace(row, content=before + after))
        return self._fitting[before, after]

    def shortened(self, row: Row) -> Row:
        """The row, with less of its document if the prompt is too long."""
        if row.document is None or self.cut == "none" or self._is_short(row):
            return row
        before, document, after = _parts(row)
        at_end = self.cut == "end"

        def with_pieces(pieces: Sequence[str], count: int) -> Row:
            kept = pieces[:count] if at_end else pieces[len(pieces) - count :]
            return replace(row, content=f"{before}{''.join(kept).strip()}{after}")

        def most(pieces: Sequence[str]) -> int:
            """The number of pieces that fit, found in a few renderings."""

            def length(count: int) -> int:
                return len(self._renderer.tokens(with_pieces(pieces, count)))

            return bisect_right(range(len(pieces)), self.limit, key=length) - 1

        for pieces in (split(document) for split in (sentences, words_with_space, list[str])):
            if count := most(pieces):
                return with_pieces(pieces, count)
        return with_pieces((), 0)

    def _is_short(self, row: Row) -> bool:
        return self._renderer.most_tokens(row) <= self.limit or len(self._renderer.tokens(row)) <= self.limit


class DocumentTask(RowTask):
    """A task whose rows may have a document in a prompt that is one text (``Row.document``).

    Left out are, and a warning says how many: a prompt that is too long without a document, one whose instruction alone
    is too long, and with ``cut=none`` any that is too long. No answer is right or wrong: the column ``references``
    holds what people wrote.
    """

    option: str  # of the group task

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        rendering: Rendering,
        cutter: Cutter,
        *,
        training: Sequence[Row],
        held_out: Sequence[Row],
    ):
        self._cutter = cutter
        self._cut_positions = set[int]()  # of training prompts
        super().__init__(tokenizer, context_length, rendering, training=training, held_out=held_out, skip_long=True)
        shortened = [cutter.shortened(row) for row in self._held_out]
        changed = sum(row is not before for row, before in zip(shortened, self._held_out, strict=True))
        self._held_out = shortened
        if changed:
            log.warning(
                "%d of %d held-out documents are cut at their %s: the prompts have more than %d tokens (task.cut, "
                "task.max_prompt_length); training prompts are cut when they are drawn, and counted",
                changed, len(shortened), cutter.cut, cutter.limit,
            )  # fmt: skip

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """See ``RowTask.draw``. Counts the prompts whose document was cut."""
        prompts, end = super().draw(cursor, count)
        if distributed.is_rank_0():  # all ranks draw the same prompts
            self._cut_positions.update(
                prompt.position for prompt in prompts if prompt.content != self._row(prompt.position).content
            )
        return prompts, end

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Raises ConfigError."""
        raise ConfigError(
            f"task={self.option} has no right answers, so reward=check cannot judge it; type reward=rouge, which "
            "compares with the column references, reward=reward_model reward.path=MODEL, or reward=judge "
            "reward.base_url=URL reward.model=NAME"
        )

    def counters(self) -> dict[str, int]:
        """``cut_prompts``: training prompts drawn since the start whose document was cut. Thread-safe."""
        return {"cut_prompts": len(self._cut_positions)}

    def _prompt(self, row: Row, position: int) -> Prompt:
        return super()._prompt(self._cutter.shortened(row), position)

    def _tokens(self, row: Row) -> tuple[int, ...]:
        return super()._tokens(self._cutter.shortened(row))

    def _rows_that_fit(self, rows: Sequence[Row], skip_long: bool | None) -> list[Row]:
        fitting = list(filter(self._cutter.fits, rows))
        if rows and not fitting:
            raise ConfigError(
                f"all prompts have more than {max(0, self._cutter.limit)} tokens; type {self._cutter.advice}"
            )
        if len(fitting) < len(rows):
            log.warning(
                "%d of %d prompts have more than %d tokens and are left out",
                len(rows) - len(fitting), len(rows), self._cutter.limit,
            )  # fmt: skip
        return fitting


def _parts(row: Row) -> tuple[str, str, str]:
    """The text before the document, the document, and the text after it."""
    assert isinstance(row.content, str)
    assert row.document
    start, end = row.document
    return row.content[:start], row.content[start:end], row.content[end:]
