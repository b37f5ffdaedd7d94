"""TensorBoard and Weights & Biases: the numbers of metrics.jsonl, as they come."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from dqo.evaluation import Evaluation
from dqo.files.atomic import replacing
from dqo.metrics.training import describe
from dqo.records import Step

log = logging.getLogger(__name__)


class TensorBoard:
    """Event files in ``folder``. A resumed run passes the step it goes on from, 0 where it starts anew: later points
    are dropped."""

    def __init__(self, *, folder: Path, alpha: float, resumed_at: int | None = None):
        self.alpha = alpha
        purge = None if resumed_at is None else resumed_at + (resumed_at > 0)  # step 0 is measured again by a new start
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def __call__(self, step: Step) -> None:
        self._write(step.number, describe(step, self.alpha))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    def close(self) -> None:
        self._writer.close()

    def _write(self, number: int, metrics: Mapping[str, float]) -> None:
        for key, value in _finite(metrics).items():
            self._writer.add_scalar(key, value, number)
        self._writer.flush()


class Wandb:
    """A wandb run: online with a key, offline without one or without a network, and never fatal.

    After the first failure, logged once, it only counts (``failures``): a service must not end a run. ``WANDB_MODE``
    wins over what is found here. The run's id is kept in ``folder/wandb_id``: who resumes there goes on with it.
    """

    def __init__(self, *, folder: Path, alpha: float, project: str, name: str, config: Mapping[str, Any]):
        """``config``: what the dashboard lists; no secrets."""
        import wandb

        kept = folder / "wandb_id"
        id = kept.read_text() if kept.exists() else None
        self.alpha, self.id, self.failures = alpha, id, 0
        self._expected = (wandb.Error, OSError)  # refused, unreachable, or its service process died
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

    def __call__(self, step: Step) -> None:
        self._write(step.number, describe(step, self.alpha))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        self._write(number, {f"eval/{key}": value for key, value in evaluation.metrics.items()})

    def close(self) -> None:
        if self._run is not None:
            self._try(self._run.finish)
        if self.failures:
            log.warning("wandb: %d calls failed in all", self.failures)

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
