"""All evaluations of a run, one JSON file each: to read, and for the final pictures of a resumed run."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from dqo.evaluation import Answers, Evaluation
from dqo.files.atomic import replacing, sweep
from dqo.observe.comparison import same_prompts
from dqo.observe.text import prompt_text
from dqo.records import Prompt


class Evaluations:
    """Writes each evaluation to ``step_00020.json``: n, seed, metrics, and for each prompt its texts, keys, correct and
    rewards. Undefined values are null."""

    def __init__(self, *, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Write an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        answers = [
            {
                "position": each.prompt.position,
                "prompt": prompt_text(each.prompt),
                "texts": each.texts,
                "keys": each.keys,
                "correct": each.correct,
                "rewards": [_or_null(reward) for reward in each.rewards],
            }
            for each in evaluation.answers
        ]
        metrics = {key: _or_null(value) for key, value in evaluation.metrics.items()}
        record = {"n": evaluation.n, "seed": evaluation.seed, "metrics": metrics, "answers": answers}
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
        known = {(prompt.position, prompt_text(prompt)): prompt for prompt in prompts}
        return Evaluation(
            n=record["n"],
            seed=record["seed"],
            metrics={key: _or_nan(value) for key, value in record["metrics"].items()},
            answers=tuple(
                Answers(
                    prompt=known.get((each["position"], each["prompt"]))
                    or Prompt(position=each["position"], tokens=(), content=each["prompt"], columns={}),
                    texts=tuple(each["texts"]),
                    keys=tuple(each["keys"]),
                    correct=None if each["correct"] is None else tuple(each["correct"]),
                    rewards=tuple(map(_or_nan, each["rewards"])),
                )
                for each in record["answers"]
            ),
        )

    def _path(self, number: int) -> Path:
        return self.folder / f"step_{number:05d}.json"


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
