"""``task=math``: problems of mathematics competitions (MATH, Hendrycks et al. 2021, arXiv 2103.03874)."""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.answers.finding import after_marker, in_boxes
from dqo.answers.notation import Unreadable, one_notation
from dqo.answers.numbers import read_number, same_number
from dqo.answers.symbols import in_latex
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.arithmetic.solutions import LONGEST, PROMPT, formulas_in_order, numbers_in_order
from dqo.task.reading.data_set import DataSet, Numbered, held_out_rows, one_per_prompt, texts_of
from dqo.task.reading.files import kind_of
from dqo.task.reading.row import Row
from dqo.task.reading.rows import RowTask
from dqo.task.reading.settings import Rendering

log = logging.getLogger(__name__)

FILES = {"train": "train.jsonl", "test": "test.jsonl"}
KEY = "task.data_dir=FOLDER with train.jsonl and test.jsonl of MATH"
MATH_500 = DataSet(hub="HuggingFaceH4/MATH-500", files=FILES)

Subject = Literal[
    "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
    "Precalculus",
]  # fmt: skip
Level = Annotated[int, Field(ge=1, le=5)]


class Math(RowTask):
    """Reward 1.0 if the answer is finished and its box holds the right answer, else 0.0: equal numbers, or formulas
    that are written alike. ``reward=math``, the default, also finds equal formulas that are written differently."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        data_dir: str | None,
        hub: str,
        subset: str | None,
        eval_set: Annotated[Literal["test", "MATH-500"], Field(examples=["test"])],
        subjects: Annotated[list[Subject] | None, Field(min_length=1, examples=["[Algebra]"])],
        levels: Annotated[list[Level] | None, Field(min_length=1, examples=["[4,5]"])],
        held_out: Annotated[int, Field(ge=1, examples=[200])],
        skip_long: bool,
    ):
        data = DataSet(hub=hub, subset=subset, files=FILES)
        if data_dir is not None:
            train, test = _read_folder(Path(data_dir).expanduser(), data)
        else:
            (train,) = data.read(["train"], None)
            (test,) = (data if eval_set == "test" else MATH_500).read(["test"], None)
        training, evaluation = (_chosen(_rows(rows), subjects, levels) for rows in (train, test))
        training = one_per_prompt(training)
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=training,
            held_out=held_out_rows(evaluation, training, held_out),
            skip_long=skip_long,
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and what its last box holds, or without one what follows
        "answer is", is the right answer; else 0.0. Thread-safe."""
        boxed = in_boxes(text)
        answer = boxed.last if boxed else after_marker(text)
        right = finished and answer is not None and _same(answer, prompt.columns["answer"])
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The formulas of the text in order, each once: they stand for the way to the answer, which all right solutions
        share. Without formulas the numbers in order, as in ``task=gsm8k``."""
        return formulas_in_order(text) or numbers_in_order(text) or super().key(prompt, text)


def _same(answer: str, right: str) -> bool:
    one, other = _plain(answer), _plain(right)
    if one == other:
        return bool(one)
    numbers = read_number(one), read_number(other)
    return numbers[0] is not None and numbers[1] is not None and same_number(numbers[0], numbers[1])


def _plain(text: str) -> str:
    """The answer in one notation, without spaces."""
    if len(text) <= LONGEST:
        with suppress(Unreadable):
            return "".join(one_notation(text)[0].split())
    return "".join(in_latex(text).split())


def _chosen(rows: Sequence[Row], subjects: Sequence[str] | None, levels: Sequence[int] | None) -> list[Row]:
    """The rows of these subjects and levels. Raises ConfigError if there are none."""
    chosen = rows
    for key, name, wanted in (("subjects", "subject", subjects), ("levels", "level", levels)):
        if wanted is not None:
            found = {row.columns[name] for row in chosen} - {None}
            chosen = [row for row in chosen if row.columns[name] in wanted]
            if not chosen:
                there = ", ".join(map(str, sorted(found))) or "none"
                raise ConfigError(
                    f"task.{key}: no problem is of {', '.join(map(str, wanted))}; there are {there}; type "
                    f"task.{key}={f'[{min(found)}]' if found else 'null'}"
                )
    return list(chosen)


def _rows(numbered: Numbered) -> list[Row]:
    """The rows that have an answer: the field ``answer``, or what the solution's last box holds."""
    rows, count = [], 0
    for count, (source, fields) in enumerate(numbered, 1):  # noqa: B007
        problem, solution = texts_of(fields, ["problem", "solution"], source)
        boxed = in_boxes(solution)
        answer = str(fields.get("answer") or (boxed and boxed.last) or "").strip()
        if answer:
            columns = {"answer": answer, "solution": solution, "level": _level(fields), "subject": _subject(fields)}
            content = PROMPT.format(problem.strip())
            rows.append(Row(content=content, source=source, columns=columns, demonstrations=(solution.strip(),)))
    if not rows:
        raise ConfigError(f'no row has an answer, a field "answer" or a solution with \\boxed{{…}}; type {KEY}')
    if len(rows) < count:
        log.warning("%d of %d problems have no answer and are left out", count - len(rows), count)
    return rows


def _level(fields: Any) -> int | None:
    """5 of "Level 5"; None of "Level ?", which two problems have."""
    digits = re.search(r"\d+", str(fields.get("level")))
    return int(digits[0]) if digits else None


def _subject(fields: Any) -> str | None:
    return fields.get("subject") or fields.get("type")


def _read_folder(folder: Path, data: DataSet) -> Sequence[Numbered]:
    """The splits: folders with a folder of JSON files for each subject, as upstream's, or what ``DataSet`` reads."""
    if not any((folder / "train").glob("*/*.json")):
        return data.read(list(FILES), str(folder))
    return [_tree(folder / split) for split in FILES]


def _tree(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    paths = sorted(folder.glob("*/*.json"))
    if not paths:
        raise ConfigError(f"{folder} has no files SUBJECT/*.json; type {KEY}")
    for path in paths:
        try:
            fields = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not JSON ({error}); mend the file, or type {KEY}") from error
        if not isinstance(fields, dict):
            raise ConfigError(f"{path}: {kind_of(fields)}, but an object is needed; mend the file, or type {KEY}")
        yield str(path), fields
