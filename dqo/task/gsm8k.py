"""``task=gsm8k``: grade-school maths (GSM8K, Cobbe et al. 2021, arXiv 2110.14168)."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.answers.finding import in_boxes
from dqo.answers.notation import Unreadable, mixed_numbers_as_fractions, one_notation
from dqo.answers.numbers import read_number
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.files import read_hub
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering
from dqo.task.reading.tables import is_saved_dict, read_rows

HUB = "openai/gsm8k"
FILES = ("train.jsonl", "test.jsonl")
PROMPT = "{}\n\nReason step by step, and put the final answer in \\boxed{{}}."
LONGEST = 100  # characters; longer numbers are not converted
NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?")  # in 12-5 the minus is no sign


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
        training, evaluation = _read_files(Path(data_dir).expanduser()) if data_dir is not None else _read_hub()
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
        right = finished and _value(boxed.last if boxed else text) == _value(prompt.columns["answer"])
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The numbers of the text in order, each once: they stand for the way of calculating. Texts in other words but
        with the same numbers are the same solution; other intermediate numbers are another solution."""
        numbers = [str(_fraction(number)) for number in NUMBER.findall(text)]
        return " ".join(dict.fromkeys(numbers)) or super().key(prompt, text)


def _value(text: str) -> Fraction | None:
    """The number that the text is, in any notation, or the last one in it."""
    with suppress(Unreadable):
        if len(text) <= LONGEST and (number := read_number(one_notation(text)[0])):
            return number.value
    numbers = NUMBER.findall(mixed_numbers_as_fractions(text.replace("−", "-")))
    return _fraction(numbers[-1]) if numbers else None


def _fraction(number: str) -> Fraction | None:
    """The number's value; None for 1/0, and for more than ``LONGEST`` characters: Python refuses to convert thousands
    of digits."""
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
                f'{source}: "question" and "answer" are needed as text; the row has {", ".join(fields) or "nothing"}'
            )
        steps, mark, answer = solution.partition("####")
        if not mark or _value(answer) is None:
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


def _read_files(folder: Path) -> tuple[list[Row], list[Row]]:
    key = f"task.data_dir=FOLDER with {' and '.join(FILES)}"
    names = ("train", "test") if is_saved_dict(folder) else FILES
    training, evaluation = (_rows(read_rows(folder / name, key=key)) for name in names)
    return training, evaluation


def _read_hub() -> tuple[list[Row], list[Row]]:
    splits = read_hub(HUB, "main", ["train", "test"], files=" and ".join(FILES))
    training, evaluation = (
        _rows((f"{HUB} {split}, row {number}", fields) for number, fields in enumerate(rows))
        for split, rows in zip(("train", "test"), splits, strict=True)
    )
    return training, evaluation
