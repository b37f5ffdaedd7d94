"""``task=jsonl``: a user's own prompts, from JSON lines or another format (``reading.tables``)."""

import logging
import random
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.models.folders import as_typed
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.fields import Fields
from dqo.task.reading.row import Content
from dqo.task.reading.rows import Row, RowTask, fingerprint
from dqo.task.reading.settings import MessageRendering

log = logging.getLogger(__name__)

MOST = 64  # prompts that are held out where no number is typed


class Jsonl(RowTask):
    """The user's own prompts, judged by the user's function (``reward=python``) or by comparison with the field
    ``answer_column`` (``reward=check``)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: MessageRendering,
        fields: Fields,
        path: str | None,
        eval_path: str | None,
        held_out: Annotated[int | None, Field(ge=1, examples=[64])],
        skip_long: bool,
    ):
        if path is None:
            raise ConfigError('task=jsonl needs a file of lines like {"prompt": "…"}; type task.path=my.jsonl')
        training = fields.read(path, key="task.path=FILE", splits=["train"])
        if eval_path is None:
            training, evaluation = _split(training, held_out, path)
        else:
            evaluation = fields.read(eval_path, key="task.eval_path=FILE", splits=["test", "validation"])
            evaluation = evaluation[: held_out or MOST]
        self._answer_column, self._fields = fields.answer_column, fields
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=training,
            held_out=evaluation,
            skip_long=skip_long,
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and equals the row's answer up to case, white space and final
        punctuation; else 0.0. Raises ConfigError if ``answer_column`` is null. Thread-safe."""
        if self._answer_column is None:
            raise ConfigError(
                "task=jsonl has no reward of its own; type reward=python reward.function=my_module.score, "
                "or task.answer_column=NAME of the field with the right answer"
            )
        right = finished and self.key(prompt, text) == self.key(prompt, prompt.columns[self._answer_column])
        return Verdict(reward=float(right), correct=right)

    def _content(self, text: str) -> Content:
        return self._fields.with_system_prompt(text, "the prompt")


def _split(rows: list[Row], held_out: int | None, path: str) -> tuple[list[Row], list[Row]]:
    """Training rows and ``held_out`` evaluation rows; None: a tenth of the different prompts, at least one and at most
    ``MOST``. The split is the same for every seed, since a warm start may have used another seed. All lines with the
    same prompt are on the same side."""
    prompts: dict[bytes, list[Row]] = {}
    for row in rows:
        prompts.setdefault(fingerprint(row), []).append(row)
    tenth = min(MOST, max(1, len(prompts) // 10))
    count = tenth if held_out is None else held_out
    if count >= len(prompts):
        advice = f"type task.held_out={tenth}" if len(prompts) > 1 else "add lines"
        raise ConfigError(
            f"task.held_out={count}: {as_typed(path)} has {len(prompts)} different prompts and some must be left to "
            f"train on; {advice}, or task.eval_path=FILE"
        )
    if held_out is None:
        log.info("%d of %d different prompts are held out for evaluation (task.held_out)", count, len(prompts))
    chosen = set(random.Random("held out").sample(list(prompts), count))
    training = [row for prompt, same in prompts.items() if prompt not in chosen for row in same]
    return training, [prompts[prompt][0] for prompt in prompts if prompt in chosen]
