"""``task=gsm8k``: grade-school maths (GSM8K, Cobbe et al. 2021, arXiv 2110.14168)."""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.files import read_hub, read_jsonl
from dqo.task.reading.rows import Row, RowTask

HUB = "openai/gsm8k"
FILES = ("train.jsonl", "test.jsonl")
PROMPT = "{}\n\nReason step by step, and put the final answer in \\boxed{{}}."
LONGEST = 100  # characters of a number
NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")  # 12-5 holds no -5


class Gsm8k(RowTask):
    """Reward 1 if the answer is finished and its number, in the last \\boxed{} or else the last of the text, is right.

    ``reward=math`` judges more forms of a number (by the column ``answer``).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: int,
        max_completion_length: int,
        chat_template: bool,
        data_dir: str | None,
        held_out: int,
    ):
        training, evaluation = _read_files(Path(data_dir)) if data_dir is not None else _read_hub()
        if not 1 <= held_out <= len(evaluation):
            raise ConfigError(
                f"task.held_out={held_out}: the test split has {len(evaluation)} rows; type "
                f"task.held_out={min(200, len(evaluation))}"
            )
        super().__init__(
            tokenizer,
            context_length,
            seed=seed,
            max_completion_length=max_completion_length,
            chat_template=chat_template,
            training=training,
            held_out=evaluation[:held_out],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
        right = finished and _value(boxed[-1] if boxed else text) == _value(prompt.columns["answer"])
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The way of calculating: the numbers that the text comes by, each once, in order. In other words, but with the
        same numbers, it is the same solution; texts with the right answer and other numbers on the way differ."""
        numbers = [str(_fraction(number)) for number in NUMBER.findall(text)]
        return " ".join(dict.fromkeys(numbers)) or super().key(prompt, text)


def _value(text: str) -> Fraction | None:
    numbers = NUMBER.findall(text)
    return _fraction(numbers[-1]) if numbers else None


def _fraction(number: str) -> Fraction | None:
    """None for what is no number: 1/0, and a policy's endless digits, which Python does not convert."""
    whole, _, parts = number.replace(",", "").partition("/")
    if len(number) > LONGEST or (parts and not int(parts)):
        return None
    return Fraction(whole) / int(parts or 1)


def _rows(numbered: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Row]:
    rows = []
    for source, fields in numbered:
        question, solution = fields.get("question"), fields.get("answer")
        if not isinstance(question, str) or not isinstance(solution, str):
            raise ConfigError(
                f'{source}: "question" and "answer" are needed as text; it has {", ".join(fields) or "nothing"}'
            )
        steps, mark, answer = solution.partition("####")
        if not mark or _value(answer) is None:
            raise ConfigError(f'{source}: the answer does not end in "#### " and a number')
        steps = re.sub(r"<<[^>]*>>", "", steps).strip()  # upstream's notes for a calculator
        rows.append(
            Row(
                content=PROMPT.format(question.strip()),
                source=source,
                columns={"answer": answer.strip().replace(",", ""), "solution": solution},
                demonstrations=(f"{steps}\nThe answer is \\boxed{{{answer.strip()}}}.",),
            )
        )
    return rows


def _read_files(folder: Path) -> tuple[list[Row], list[Row]]:
    key = f"task.data_dir=FOLDER with {' and '.join(FILES)}"
    training, evaluation = (
        _rows((f"{folder / name}, line {number}", fields) for number, fields in read_jsonl(folder / name, key=key))
        for name in FILES
    )
    return training, evaluation


def _read_hub() -> tuple[list[Row], list[Row]]:
    splits = read_hub(HUB, "main", ["train", "test"], files=" and ".join(FILES))
    training, evaluation = (
        _rows((f"{HUB} {split}, row {number}", fields) for number, fields in enumerate(rows))
        for split, rows in zip(("train", "test"), splits, strict=True)
    )
    return training, evaluation
