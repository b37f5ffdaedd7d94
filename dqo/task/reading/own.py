"""The base class of tasks over a user's own prompts, held in memory or read from the disk whenever they are drawn."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.fields import Fields
from dqo.task.reading.lengths import Lengths
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Content, Row
from dqo.task.reading.rows import RowTask, fingerprint
from dqo.task.reading.settings import MessageRendering
from dqo.task.reading.sources import Source, are_large
from dqo.task.reading.streamed import StreamedRows, indexed

log = logging.getLogger(__name__)

MOST = 64  # prompts that are held out where no number is typed


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which prompts are used, and how they are held; see conf/task/jsonl.yaml."""

    held_out: Annotated[int | None, Field(ge=1, examples=[64])]
    skip_long: bool
    streaming: Annotated[bool | Literal["auto"], Field(examples=["true"])]


class OwnPrompts(RowTask):
    """Prompts judged by the user's function (``reward=python``) or by comparison with the field ``answer_column``
    (``reward=check``)."""

    option: str  # of the group, for messages

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        rendering: MessageRendering,
        fields: Fields,
        choice: Choice,
        *,
        sources: Sequence[Source],
        eval_sources: Sequence[Source],
        place: str,
        eval_key: str,
    ):
        """``eval_sources``: none: some of the prompts in ``sources`` are held out. For messages: ``place`` is what
        ``sources`` were typed as, ``eval_key`` how other sources are typed for the evaluation."""
        self._fields, self._place, self._eval_key = fields, place, eval_key
        evaluation = []
        if _streams(sources, choice):
            lengths = Lengths(
                Renderer(tokenizer, rendering), tokenizer, context_length, rendering.max_completion_length,
                choice.skip_long,
            )  # fmt: skip
            training = self._indexed(sources, lengths)
            if eval_sources:
                evaluation = self._fields.read(list(islice(_lines(eval_sources), choice.held_out or MOST)))
            else:
                training, evaluation = training.hold_out(lambda prompts: self._count(prompts, choice.held_out))
        else:
            training = fields.read(list(_lines(sources)))
            if eval_sources:
                evaluation = fields.read(list(_lines(eval_sources)))[: choice.held_out or MOST]
            else:
                training, evaluation = self._split(training, choice.held_out)
        super().__init__(
            tokenizer, context_length, rendering, training=training, held_out=evaluation, skip_long=choice.skip_long
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and equals the row's answer up to case, white space and final
        punctuation; else 0.0. Raises ConfigError if ``answer_column`` is null. Thread-safe."""
        column = self._fields.answer_column
        if column is None:
            raise ConfigError(
                f"task={self.option} has no reward of its own; type reward=python reward.function=my_module.score, "
                "or task.answer_column=NAME of the field with the right answer"
            )
        right = finished and self.key(prompt, text) == self.key(prompt, prompt.columns[column])
        return Verdict(reward=float(right), correct=right)

    def _content(self, text: str) -> Content:
        return self._fields.with_system_prompt(text, "the prompt")

    def _indexed(self, sources: Sequence[Source], lengths: Lengths) -> StreamedRows:
        rows = indexed(sources, self._fields.row, lengths, depends_on=[repr(self._fields)])
        self._fields.check(list(islice(_lines(sources), 1000)), list(rows.summary.names))
        return rows

    def _split(self, rows: list[Row], held_out: int | None) -> tuple[list[Row], list[Row]]:
        """Training rows and evaluation rows. The split is the same for every seed, since a warm start may have used
        another seed. All lines with the same prompt are on the same side."""
        prompts: dict[bytes, list[Row]] = {}
        for row in rows:
            prompts.setdefault(fingerprint(row), []).append(row)
        count = self._count(len(prompts), held_out)
        chosen = set(random.Random("held out").sample(list(prompts), count))
        training = [row for prompt, same in prompts.items() if prompt not in chosen for row in same]
        return training, [prompts[prompt][0] for prompt in prompts if prompt in chosen]

    def _count(self, prompts: int, held_out: int | None) -> int:
        """How many of the different prompts are held out; None: a tenth, at least one and at most ``MOST``."""
        tenth = min(MOST, max(1, prompts // 10))
        count = tenth if held_out is None else held_out
        if count >= prompts:
            advice = f"type task.held_out={tenth}" if prompts > 1 else "add lines"
            raise ConfigError(
                f"task.held_out={count}: {self._place} has {prompts} different prompts and some must be left to "
                f"train on; {advice}, or {self._eval_key}"
            )
        if held_out is None:
            log.info("%d of %d different prompts are held out for evaluation (task.held_out)", count, prompts)
        return count


def _lines(sources: Sequence[Source]):
    return (line for source in sources for line in source.lines())


def _streams(sources: Sequence[Source], choice: Choice) -> bool:
    """Whether rows stay on the disk."""
    array = next((source for source in sources if source.is_array), None)
    if choice.streaming is True and array:
        raise ConfigError(
            f"task.streaming=true: {array.name} is one JSON array, which is read whole; write one object a line (jq -c "
            "'.[]' FILE > FILE.jsonl), or type task.streaming=false"
        )
    return choice.streaming is True or (choice.streaming == "auto" and are_large(sources))
