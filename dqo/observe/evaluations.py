"""What each evaluation sampled, one JSON file a measurement: to be read, and for the pictures of a resumed run."""

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path

from dqo.evaluation import Answers, Evaluation
from dqo.files.atomic import replacing, sweep
from dqo.observe.text import prompt_text
from dqo.records import Prompt


class Evaluations:
    """Writes ``step_00020.json``: n, seed, metrics, each prompt's texts, keys, correct, rewards; null: undefined."""

    def __init__(self, *, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """``number`` is the step after which it was measured; 0 before the first."""
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
        """Remove the files of other steps, which a resumed run measures again, and what a killed one left
        half-written."""
        for path in self.folder.glob("step_*.json"):
            if (step := path.stem.removeprefix("step_")).isdigit() and int(step) not in numbers:
                path.unlink()
        sweep(self.folder)

    def read(self, number: int, prompts: Sequence[Prompt]) -> Evaluation | None:
        """The evaluation after step ``number``; None if there is none, or if it was of other prompts than these."""
        if not self._path(number).exists():
            return None
        record = json.loads(self._path(number).read_text())
        by_position = {prompt.position: prompt for prompt in prompts}
        known = [(each["position"], each["prompt"]) for each in record["answers"]]
        if sorted(known) != sorted((position, prompt_text(prompt)) for position, prompt in by_position.items()):
            return None
        return Evaluation(
            n=record["n"],
            seed=record["seed"],
            metrics={key: _or_nan(value) for key, value in record["metrics"].items()},
            answers=tuple(
                Answers(
                    prompt=by_position[each["position"]],
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
