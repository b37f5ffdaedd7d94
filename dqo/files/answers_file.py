"""A judge's answers, kept on disk: what was paid for is not asked again after a kill."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

from dqo import distributed


class AnswersFile:
    """Scores by the key of their question; None: the judge gave none. Scores are also written to a file as they come,
    but not None, so that a run that goes on asks again. Thread-safe.

    Each rank writes a file of its own, and reads the files of all ranks at the start. Example of a line:
    ``{"key": "5f…", "score": 7}``.
    """

    def __init__(self, folder: Path | None, others: Sequence[Path] = ()):
        """``folder``: where the files are; None: nothing is written. ``others``: folders whose files are also read."""
        self._file = None if folder is None else folder / f"answers_{distributed.rank()}.jsonl"
        self._lock = threading.Lock()
        self.scores: dict[str, int | float | None] = {}
        for place in [*others, *([folder] if folder else [])]:
            for file in sorted(place.glob("answers_*.jsonl")):
                self.scores.update(_read(file))

    def add(self, key: str, score: int | float | None) -> None:
        """Once this returns, a kill of the process does not lose the score."""
        with self._lock:
            self.scores[key] = score
            if self._file and score is not None:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with self._file.open("a", encoding="utf-8") as file:  # begins with its line break: after half a line
                    file.write("\n" + json.dumps({"key": key, "score": score}))


def _read(file: Path) -> dict[str, float]:
    """The scores of a file; what is no line of one is left out, such as the half line that a kill has left."""
    scores = {}
    for line in file.read_text("utf-8", errors="replace").splitlines():
        try:
            answer = json.loads(line)
            scores[str(answer["key"])] = float(answer["score"])
        except (ValueError, TypeError, LookupError):
            continue
    return scores
