"""The files of a run folder that grow while a run goes on. Rank 0 alone writes them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from dqo.evaluation import Evaluation
from dqo.files.atomic import sweep
from dqo.files.checkpoint import Checkpoints, Resumed
from dqo.observe.completions import Completions
from dqo.observe.evaluations import Evaluations
from dqo.observe.metrics_file import MetricsFile, read_metrics
from dqo.observe.trackers import TensorBoard, Wandb
from dqo.records import Step
from dqo.run.job import Job

Sink = Callable[[Step, Mapping[str, float]], None]  # gets a step and its metrics


class RunFiles:
    """metrics.jsonl, evaluations/, completions/ and the trackers' files of one run."""

    def __init__(self, job: Job, checkpoints: Checkpoints, resumed: Resumed):
        """Opens the files and forgets what was written after the checkpoint.

        Raises ConfigError, before anything is forgotten, where metrics.jsonl is not the checkpoint's.
        """
        self._folder, log = job.folder, job.config.log
        self.metrics = MetricsFile(path=job.folder / "metrics.jsonl")
        self.evaluations = Evaluations(folder=job.folder / "evaluations")
        self.metrics.require(resumed.extra.get("metrics_offset", 0))
        job.begin()
        self._rewind(checkpoints, resumed)
        self.completions = Completions(folder=job.folder / "completions") if log.completions else None
        self.trackers: list[TensorBoard | Wandb] = []
        if log.tensorboard:
            step = resumed.step if job.config.resume else None
            self.trackers.append(TensorBoard(folder=job.folder / "tensorboard", resumed_at=step))
        if log.wandb:
            shown = job.config.model_dump()
            self.trackers.append(Wandb(folder=job.folder, project=log.project, name=job.folder.name, config=shown))

    @property
    def sinks(self) -> list[Sink]:
        """What a finished step is written to, in order."""
        return [self.metrics, *([self.completions] if self.completions else []), *self.trackers]

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Write an evaluation. ``number``: the step after which it was measured; 0 before the first."""
        for sink in (self.metrics, self.evaluations, *self.trackers):
            sink.evaluated(number, evaluation)

    def position(self) -> dict[str, int]:
        """How far metrics.jsonl is written, and on the disk: a checkpoint remembers it."""
        self.metrics.fsync()
        return {"metrics_offset": self.metrics.offset}

    def close(self, stack: ExitStack) -> None:
        """Register the closing of every file: one that fails, as on a full disk, does not keep others open."""
        for each in (self.metrics, *self.trackers):
            stack.callback(each.close)

    def _rewind(self, checkpoints: Checkpoints, resumed: Resumed) -> None:
        """Remove what was written after the checkpoint. Later checkpoints go first: after a kill in between, one whose
        offset lies past the end of metrics.jsonl could not be resumed. Evaluation files stay whose line is left in
        metrics.jsonl."""
        checkpoints.forget_after(resumed.step)
        self.metrics.truncate(resumed.extra.get("metrics_offset", 0))
        lines = read_metrics(self._folder / "metrics.jsonl")
        self.evaluations.keep({line["step"] for line in lines if any(key.startswith("eval/") for key in line)})
        if (completions := self._folder / "completions").exists():
            Completions(folder=completions).forget_after(resumed.step)
        (self._folder / "error.txt").unlink(missing_ok=True)  # of the failure that the run goes on from
        sweep(self._folder)
