"""``task=jsonl``: a user's own prompts, one JSON object a line."""

import random

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.fields import Fields
from dqo.task.reading.rows import Row, RowTask, fingerprint


class Jsonl(RowTask):
    """The reward is the user's (``reward=python``), or a comparison with ``answer_column`` (``reward=check``)."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: int,
        max_completion_length: int,
        chat_template: bool,
        path: str | None,
        eval_path: str | None,
        held_out: int,
        prompt_column: str,
        template: str | None,
        system_prompt: str | None,
        columns: dict[str, str] | None,
        answer_column: str | None,
        completion_column: str | None,
        skip_long: bool,
    ):
        if path is None:
            raise ConfigError('task=jsonl needs a file of lines like {"prompt": "…"}; type task.path=my.jsonl')
        if held_out < 1:
            raise ConfigError(
                f"task.held_out={held_out}: progress is measured on 1 prompt at least; type task.held_out=64"
            )
        fields = Fields(
            prompt_column=prompt_column,
            template=template,
            system_prompt=system_prompt,
            columns=columns,
            answer_column=answer_column,
            completion_column=completion_column,
        )
        training = fields.read(path, key="task.path=FILE")
        if eval_path is None:
            training, evaluation = _split(training, held_out, path)
        else:
            evaluation = fields.read(eval_path, key="task.eval_path=FILE")[:held_out]
        self._answer_column = answer_column
        super().__init__(
            tokenizer,
            context_length,
            seed=seed,
            max_completion_length=max_completion_length,
            chat_template=chat_template,
            training=training,
            held_out=evaluation,
            skip_long=skip_long,
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Whether the answer is the row's, but for case, white space and final punctuation."""
        if self._answer_column is None:
            raise ConfigError(
                "task=jsonl has no reward of its own; type reward=python reward.function=my_module.score, "
                "or task.answer_column=NAME of the field with the right answer"
            )
        right = finished and self.key(prompt, text) == self.key(prompt, prompt.columns[self._answer_column])
        return Verdict(reward=float(right), correct=right)


def _split(rows: list[Row], held_out: int, path: str) -> tuple[list[Row], list[Row]]:
    """``held_out`` prompts apart, the same for every seed: a warm start with another seed must not have seen them. A
    prompt that stands in several lines is on one side."""
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
