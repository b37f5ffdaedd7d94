"""metrics.jsonl: the metrics of a run, one JSON object a line."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.evaluation import Evaluation
from dqo.records import Step


class MetricsFile:
    """Appends a line for each step, ``{"step": 12, "reward": 0.84, …}``, and for each evaluation, ``{"step": 12,
    "eval/reward": 0.81, …}``. NaN and infinities are written as null: JSON has no such numbers."""

    def __init__(self, *, path: Path):
        self._path = path
        self._file = path.open("ab")

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Append the line of a step."""
        self._write(step.number, metrics)

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Append the line of an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    @property
    def offset(self) -> int:
        """Number of bytes written so far. A checkpoint stores it."""
        return self._file.tell()

    def require(self, offset: int) -> None:
        """Raises ConfigError if no line ends at ``offset``: the checkpoint was saved with another file."""
        with self._path.open("rb") as file:
            file.seek(max(offset - 1, 0))
            if offset and file.read(1) != b"\n":
                raise ConfigError(
                    f"{self._path} has {self.offset} bytes and no line that ends at byte {offset}, where the "
                    "checkpoint was saved: the file was changed; restore it, or start a new run"
                )

    def truncate(self, offset: int) -> None:
        """Remove all lines after ``offset``, where the checkpoint was saved, and a half-written last line."""
        assert offset <= self.offset, "call require first"
        self._file.truncate(offset)
        self._file.seek(offset)

    def fsync(self) -> None:
        """fsync the file. Call it before a checkpoint stores ``offset``: a power cut must not lose earlier lines."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, number: int, metrics: Mapping[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self._file.write(json.dumps({"step": number, **finite}, allow_nan=False).encode() + b"\n")
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics.jsonl, without a last line that a killed run left half-written."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
