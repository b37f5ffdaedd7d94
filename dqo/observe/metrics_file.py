"""metrics.jsonl: one strict JSON object a line, in the order things happened."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.evaluation import Evaluation
from dqo.metrics.training import describe
from dqo.records import Step


class MetricsFile:
    """Appends a line a step, ``{"step": 12, "reward": 0.84, …}``, and a line an evaluation, ``{"step": 12,
    "eval/reward": 0.81, …}``. NaN and infinities, which JSON lacks, are written as null."""

    def __init__(self, *, path: Path, alpha: float):
        self.alpha, self._path = alpha, path
        self._file = path.open("ab")

    def __call__(self, step: Step) -> None:
        self._write(step.number, describe(step, self.alpha))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """``number`` is the step after which it was measured; 0 before the first."""
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    @property
    def offset(self) -> int:
        """Bytes written: what a checkpoint remembers."""
        return self._file.tell()

    def require(self, offset: int) -> None:
        """Raises ConfigError where no line ends at ``offset``: not the file that the checkpoint was taken of."""
        with self._path.open("rb") as file:
            file.seek(max(offset - 1, 0))
            if offset and file.read(1) != b"\n":
                raise ConfigError(
                    f"{self._path} has {self.offset} bytes and no line that ends at byte {offset}, where the "
                    "checkpoint was taken: the file was changed; restore it, or start a new run"
                )

    def truncate(self, offset: int) -> None:
        """Forget what was written behind a checkpoint, half a line of a killed run included."""
        assert offset <= self.offset, "see require"
        self._file.truncate(offset)
        self._file.seek(offset)

    def sync(self) -> None:
        """Bring all lines to the disk: a checkpoint must not outlive, after a power cut, the lines it counts on."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _write(self, number: int, metrics: Mapping[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        self._file.write(json.dumps({"step": number, **finite}, allow_nan=False).encode() + b"\n")
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics.jsonl; a last line that a killed run left half-written is not one."""
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
