"""TensorBoard and Weights & Biases: the numbers of metrics.jsonl, sent during the run."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from dqo.evaluation import Evaluation
from dqo.files.atomic import replacing
from dqo.records import Step

log = logging.getLogger(__name__)


class TensorBoard:
    """Writes event files to ``folder``. ``resumed_at``: the step that a resumed run continues after, 0 from the start;
    points that the run will write again are dropped. None: a new run."""

    def __init__(self, *, folder: Path, resumed_at: int | None = None):
        purge = (
            None if resumed_at is None else resumed_at + (resumed_at > 0)
        )  # a run resumed at step 0 writes step 0 again
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Write the metrics of a step."""
        self._write(step.number, metrics)

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Write an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    def close(self) -> None:
        """Close the event files."""
        self._writer.close()

    def _write(self, number: int, metrics: Mapping[str, float]) -> None:
        for key, value in _finite(metrics).items():
            self._writer.add_scalar(key, value, number)
        self._writer.flush()


class Wandb:
    """A wandb run: online with an API key, offline without a key or a network. A failure of wandb never ends the run.

    The first failure is logged, later ones are only counted in ``failures``. The environment variable ``WANDB_MODE``
    overrides the choice of online or offline. The id of the wandb run is kept in ``folder/wandb_id``: a run resumed in
    ``folder`` continues the same wandb run.
    """

    def __init__(self, *, folder: Path, project: str, name: str, config: Mapping[str, Any]):
        """``config`` is shown on the dashboard: it must hold no secrets."""
        import wandb

        kept = folder / "wandb_id"
        id = kept.read_text() if kept.exists() else None
        self.id, self.failures = id, 0
        self._expected = (wandb.Error, OSError)  # refused, unreachable, or wandb's service process has died
        self._run: Any = None

        def start(offline: bool) -> None:
            self._run = wandb.init(
                dir=str(folder), project=project, name=name, id=id, resume="allow" if id else None, config=dict(config),
                mode="offline" if offline else None, settings=wandb.Settings(silent=True, init_timeout=30),
            )  # fmt: skip
            self.id = self._run.id
            with replacing(kept) as path:
                path.write_text(self._run.id)

        self._try(lambda: start(offline="WANDB_MODE" not in os.environ and not wandb.login(prompt=False)))
        if self._run is None:
            self._try(lambda: start(offline=True))

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._write(step.number, metrics)

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Send an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    def close(self) -> None:
        """Finish the wandb run, and log the number of failures."""
        if self._run is not None:
            self._try(self._run.finish)
        if self.failures:
            log.warning("wandb: %d calls failed in total", self.failures)

    def _write(self, number: int, metrics: Mapping[str, float]) -> None:
        if self._run is not None:
            self._try(lambda: self._run.log(_finite(metrics), step=number))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except self._expected as error:
            self.failures += 1
            if self.failures == 1:
                log.warning("wandb: %s: %s; the run goes on", type(error).__name__, error)


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if math.isfinite(value)}
