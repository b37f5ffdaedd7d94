"""All evaluations of a run, one JSON file each: to read, and for the final pictures of a resumed run."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dqo.evaluation import Evaluation
from dqo.files.atomic import replacing, sweep
from dqo.observe.comparison import same_prompts
from dqo.records import Answers, Prompt


class Evaluations:
    """Writes each evaluation to ``step_00020.json``: n, seed, metrics, under ``per_prompt`` the numbers that the means
    are of, and for each prompt its texts, keys, correct, rewards, finished and lengths, for the first prompts also the
    ``cosines`` of each two embeddings. Undefined values are null."""

    def __init__(self, *, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Write an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        answers = [_record(each) for each in evaluation.answers]
        for record, cosines in zip(answers, evaluation.cosines, strict=False):  # of the first prompts alone
            record["cosines"] = cosines
        record = {
            "n": evaluation.n,
            "seed": evaluation.seed,
            "metrics": {key: _or_null(value) for key, value in evaluation.metrics.items()},
            "per_prompt": {key: [*map(_or_null, values)] for key, values in evaluation.per_prompt.items()},
            "answers": answers,
        }
        with replacing(self._path(number)) as path:
            path.write_text(json.dumps(record, ensure_ascii=False, allow_nan=False, indent=1))

    def keep(self, numbers: Collection[int]) -> None:
        """Remove the files of all steps but ``numbers``: a resumed run makes those evaluations again. Also removes
        leftovers of a killed run."""
        for path in self.folder.glob("step_*.json"):
            if (step := path.stem.removeprefix("step_")).isdigit() and int(step) not in numbers:
                path.unlink()
        sweep(self.folder)

    def read(self, number: int, prompts: Sequence[Prompt]) -> Evaluation | None:
        """The evaluation after step ``number``; None if there is no file or its prompts are not ``prompts``."""
        known = self.measured(number, prompts)
        return known if known and same_prompts(known.prompts, prompts) else None

    def measured(self, number: int, prompts: Sequence[Prompt]) -> Evaluation | None:
        """The evaluation after step ``number``, whatever its prompts are; None if there is no file. A prompt that is
        none of ``prompts`` has its text alone."""
        if not self._path(number).exists():
            return None
        record = json.loads(self._path(number).read_text())
        known = {(prompt.position, prompt.text): prompt for prompt in prompts}
        return Evaluation(
            n=record["n"],
            seed=record["seed"],
            metrics={key: _or_nan(value) for key, value in record["metrics"].items()},
            answers=tuple(_answers(each, known) for each in record["answers"]),
            per_prompt={key: tuple(map(_or_nan, values)) for key, values in record.get("per_prompt", {}).items()},
            cosines=tuple(each["cosines"] for each in record["answers"] if "cosines" in each),
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"step_{number:05d}.json"


def _record(answers: Answers) -> dict[str, Any]:
    """The answers to one prompt as JSON values."""
    return {
        "position": answers.prompt.position,
        "prompt": answers.prompt.text,
        "texts": answers.texts,
        "keys": answers.keys,
        "correct": answers.correct,
        "rewards": answers.rewards and [_or_null(reward) for reward in answers.rewards],
        "finished": answers.finished,
        "lengths": answers.lengths,
    }


def _answers(record: Mapping[str, Any], known: Mapping[tuple[int, str], Prompt]) -> Answers:
    """What ``_record`` gave. An older dqo wrote neither ``finished`` nor ``lengths``."""
    position, text, rewards = record["position"], record["prompt"], record["rewards"]
    return Answers(
        prompt=known.get((position, text)) or Prompt(position=position, tokens=(), content=text, columns={}),
        texts=tuple(record["texts"]),
        keys=tuple(record["keys"]),
        correct=_tuple(record["correct"]),
        rewards=None if rewards is None else tuple(map(_or_nan, rewards)),
        finished=_tuple(record.get("finished")),
        lengths=_tuple(record.get("lengths")),
    )


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
