"""``task=gsm8k``: grade-school maths (GSM8K, Cobbe et al. 2021, arXiv 2110.14168)."""

import re
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.answers.finding import in_boxes
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.arithmetic.solutions import PROMPT, numbers_in_order, value
from dqo.task.reading.data_set import DataSet, Numbered, texts_of
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering

DATA = DataSet(hub="openai/gsm8k", subset="main", files={"train": "train.jsonl", "test": "test.jsonl"})


class Gsm8k(RowTask):
    """Reward 1.0 if the answer is finished and its number is right, else 0.0. The answer's number is the last number in
    the last \\boxed{}, or the last number of the text if nothing is boxed.

    ``reward=math`` accepts formulas as well (it compares with the column ``answer``).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        data_dir: str | None,
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        training, evaluation = map(_rows, DATA.read(["train", "test"], data_dir))
        if held_out > len(evaluation):
            raise ConfigError(
                f"task.held_out={held_out}: the test split has {len(evaluation)} rows; type "
                f"task.held_out={min(200, len(evaluation))}"
            )
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=training,
            held_out=evaluation[:held_out],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and its number is right, else 0.0. Thread-safe."""
        boxed = in_boxes(text)
        right = finished and value(boxed.last if boxed else text) == value(prompt.columns["answer"])
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The numbers of the text in order, each once: they stand for the way of calculating. Texts in other words but
        with the same numbers are the same solution; other intermediate numbers are another solution."""
        return numbers_in_order(text) or super().key(prompt, text)


def _rows(numbered: Numbered) -> list[Row]:
    rows = []
    for source, fields in numbered:
        question, solution = texts_of(fields, ["question", "answer"], source)
        steps, mark, answer = solution.partition("####")
        if not mark or value(answer) is None:
            raise ConfigError(f'{source}: the answer does not end in "#### " and a number')
        steps = re.sub(r"<<[^>]*>>", "", steps).strip()  # upstream's annotations for a calculator
        rows.append(
            Row(
                content=PROMPT.format(question.strip()),
                source=source,
                columns={"answer": answer.strip().replace(",", ""), "solution": solution},
                demonstrations=(f"{steps}\nThe answer is \\boxed{{{answer.strip()}}}.",),
            )
        )
    return rows
