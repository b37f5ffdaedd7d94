"""``task=jsonl``: a user's own prompts, one JSON object per line."""

import random
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.fields import Fields
from dqo.task.reading.rows import Row, RowTask, fingerprint
from dqo.task.reading.settings import Rendering


class Jsonl(RowTask):
    """The user's own prompts, judged by the user's function (``reward=python``) or by comparison with the field
    ``answer_column`` (``reward=check``)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        fields: Fields,
        path: str | None,
        eval_path: str | None,
        held_out: Annotated[int, Field(ge=1, examples=[64])],
        skip_long: bool,
    ):
        if path is None:
            raise ConfigError('task=jsonl needs a file of lines like {"prompt": "…"}; type task.path=my.jsonl')
        training = fields.read(path, key="task.path=FILE")
        if eval_path is None:
            training, evaluation = _split(training, held_out, path)
        else:
            evaluation = fields.read(eval_path, key="task.eval_path=FILE")[:held_out]
        self._answer_column = fields.answer_column
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


def _split(rows: list[Row], held_out: int, path: str) -> tuple[list[Row], list[Row]]:
    """Training rows and ``held_out`` evaluation rows. The split is the same for every seed, since a warm start may have
    used another seed. All lines with the same prompt are on the same side."""
    prompts: dict[bytes, list[Row]] = {}
    for row in rows:
        prompts.setdefault(fingerprint(row.content), []).append(row)
    if held_out >= len(prompts):
        most = max(1, len(prompts) // 10)
        advice = f"type task.held_out={most}" if len(prompts) > 1 else "add lines"
        raise ConfigError(
            f"task.held_out={held_out}: {path} has {len(prompts)} different prompts and some must be left to train on; "
            f"{advice}, or task.eval_path=FILE"
        )
    chosen = set(random.Random("held out").sample(list(prompts), held_out))
    training = [row for prompt, same in prompts.items() if prompt not in chosen for row in same]
    return training, [prompts[prompt][0] for prompt in prompts if prompt in chosen]
