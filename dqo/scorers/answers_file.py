"""The judge's answers, kept on disk: what was paid for is not asked again after a kill."""

import json
from collections.abc import Sequence
from pathlib import Path

from dqo import distributed


class AnswersFile:
    """Scores by the key of their question; None: the judge gave none. Scores are also written to a file as they come,
    but not None, so that a run that goes on asks again.

    Each rank writes its own file and reads those of all. Example of a line: ``{"key": "5f…", "score": 7}``.
    """

    def __init__(self, folder: Path | None, others: Sequence[Path] = ()):
        """``folder``: of the run; None: nothing is written. ``others``: folders of runs whose answers are also read."""
        self._file = None if folder is None else folder / "judge" / f"answers_{distributed.rank()}.jsonl"
        self.scores: dict[str, int | None] = {}
        for run in [*others, *([folder] if folder else [])]:
            for file in sorted(run.glob("judge/answers_*.jsonl")):
                self.scores.update(_read(file))

    def add(self, key: str, score: int | None) -> None:
        """Once this returns, a kill of the process does not lose the score."""
        self.scores[key] = score
        if self._file and score is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:  # begins with its line break: after half a line, too
                file.write("\n" + json.dumps({"key": key, "score": score}))


def _read(file: Path) -> dict[str, int]:
    scores = {}
    for line in file.read_text("utf-8").splitlines():
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:  # an empty line, or the half of one that a kill has left
            continue
        scores[answer["key"]] = answer["score"]
    return scores
