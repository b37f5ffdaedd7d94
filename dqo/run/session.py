"""The stages of a training run, the point it stands at, and when it is evaluated and saved."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dqo import distributed
from dqo.capabilities import Closing, HasCheckpointSize
from dqo.config.resume import checkpoint_of
from dqo.config.schema import Config
from dqo.contracts import failure_counts
from dqo.errors import ConfigError, ServiceError
from dqo.evaluation import Evaluation, evaluate
from dqo.files.checkpoint import Checkpoints, Resumed, restore, saved_extra
from dqo.observe.metrics_file import read_metrics
from dqo.progress import LoggedBar, elapsed
from dqo.records import Prompt, Step
from dqo.references import References
from dqo.run.build import Policy, make_stages
from dqo.run.inputs import Inputs
from dqo.run.job import Job
from dqo.run.load_policy import load_policy
from dqo.run.references import read_references
from dqo.scorers.bundle import Scorers
from dqo.stages import Collectors, Stages, Task

log = logging.getLogger(__name__)

Listener = Callable[[int, Evaluation], None]  # gets the step after which it was measured, 0 before the first


@dataclass(frozen=True, kw_only=True)
class Session:
    """The built stages, and the checkpoint that the run goes on from."""

    policy: Policy
    task: Task
    stages: Stages
    checkpoints: Checkpoints
    checkpoint: Path | None  # that the run goes on from; None: it starts anew
    resumed: Resumed  # the step and cursor of that checkpoint, 0 without one
    references: References  # the initial policy's completions; empty: none are needed, or they are still to be sampled


def open_session(job: Job, stack: contextlib.ExitStack) -> Session:
    """Builds the stages and restores the checkpoint that ``resume`` names; ``stack`` will close the stages. Writes
    nothing. A collective.

    Raises ConfigError for whatever is wrong with configuration, data, model or checkpoint.
    """
    config = job.config
    checkpoints = Checkpoints(
        job.folder / "checkpoints", keep_last=config.checkpoint.keep_last, keep_every=config.checkpoint.keep_every
    )
    found = _checkpoint(config, config.resume, checkpoints) if config.resume and job.ownership else None
    checkpoint = distributed.broadcast(found)
    policy, task = load_policy(config, _saved_inputs(checkpoint) if checkpoint else None)
    if checkpoint is None:
        task.draw(0, 1)  # before any work: a task for evaluation alone refuses. A resumed run would count it anew
    references = References()
    stages = make_stages(config, policy, task, references)
    close_stages(stages, stack)
    resumed = restore(checkpoint, stages) if checkpoint else Resumed(step=0, cursor=0, extra={})
    if resumed.step > config.steps:
        raise ConfigError(
            f"steps={config.steps}: {checkpoint} is after step {resumed.step}; type steps={resumed.step} or more, or "
            f"resume={checkpoints.folder}/step_… of an earlier one"
        )
    if config.resume:
        read_references(config, job.folder, task, references, step=resumed.step)
    if checkpoint:
        stages.rollout.load_weights(stages.learner.weights(), version=resumed.step)
    return Session(
        policy=policy, task=task, stages=stages, checkpoints=checkpoints, checkpoint=checkpoint, resumed=resumed,
        references=references,
    )  # fmt: skip


def close_stages(stages: Collectors, stack: contextlib.ExitStack) -> None:
    """Register ``close`` of every stage that has one."""
    for f in fields(stages):
        if isinstance(stage := getattr(stages, f.name), Closing):
            stack.callback(stage.close)


def announce_disk_space(config: Config, session: Session, policy_bytes: int) -> None:
    """Log what the run will need on the disk, before it starts to write."""
    learner = session.stages.learner
    if config.checkpoint.every and isinstance(learner, HasCheckpointSize):
        session.checkpoints.announce(
            learner.checkpoint_bytes(),
            every=config.checkpoint.every,
            steps=config.steps,
            policy=policy_bytes if config.checkpoint.final else 0,
        )


def _checkpoint(config: Config, resume: str, checkpoints: Checkpoints) -> Path | None:
    """The checkpoint that a resumed run goes on from; None: the run was ended before its first one and starts anew.

    Raises ConfigError where starting anew would throw away more steps than lie between two checkpoints.
    """
    if name := checkpoint_of(resume):
        return checkpoints.named(name)
    path, folder = checkpoints.latest(), checkpoints.folder.parent
    if path:
        log.info("going on from %s", path)
        return path
    metrics, every = folder / "metrics.jsonl", config.checkpoint.every
    steps = max((line["step"] for line in read_metrics(metrics)), default=0) if metrics.exists() else 0
    if (folder / "summary.json").exists() or 0 < every < steps:
        raise ConfigError(
            f"resume={folder}: {steps} steps are done and there is no checkpoint to go on from; type another run_dir= "
            f"to start anew, or model=hf model.path={folder / 'policy'} where the policy was written"
        )
    log.warning("%s was ended before its first checkpoint: it starts anew, with the same seeds", folder)
    return None


def _saved_inputs(checkpoint: Path) -> Inputs:
    """What the run had read before it wrote the checkpoint."""
    saved = saved_extra(checkpoint).get("inputs")
    if saved is None and distributed.is_rank_0():
        log.warning("an older dqo wrote the checkpoint: whether data and model are still the run's cannot be checked")
    return saved or {}


class Evaluating:
    """Evaluates every ``every`` steps (0: never) and tells the listeners; ``measure`` does it now.

    ``say`` is told what begins, since an evaluation takes a while.
    """

    def __init__(
        self,
        *,
        stages: Collectors,
        prompts: Sequence[Prompt],
        listeners: Sequence[Listener],
        say: Callable[[str], None],
        every: int,
        n: int,
        seed: int,
        families: Sequence[str],
        scorers: Scorers | None,
    ):
        self.stages, self.prompts, self.listeners, self.say = stages, prompts, listeners, say
        self.every, self.n, self.seed, self.families, self.scorers = every, n, seed, families, scorers
        self.latest: tuple[int, Evaluation] | None = None

    def __call__(self, step: Step) -> None:
        """A collective."""
        if self.is_due(step.number):
            self.measure(step.number)

    def is_due(self, number: int) -> bool:
        """Whether the policy is evaluated after step ``number``."""
        return bool(self.every) and number % self.every == 0

    def measure(self, number: int) -> Evaluation:
        """The evaluation of the policy after step ``number``; a second call for the same step samples nothing. A
        collective."""
        if self.latest is None or self.latest[0] != number:
            self.say(f"evaluating {len(self.prompts)} held-out prompts × {self.n}")
            mine = len(self.prompts[distributed.rank() :: distributed.world_size()])
            with LoggedBar(total=mine, desc="evaluating", unit="prompts") as bar:
                found = evaluate(
                    self.stages, self.prompts, n=self.n, seed=self.seed, families=self.families, scorers=self.scorers,
                    observe=bar.update,
                )  # fmt: skip
            self.latest = (number, found)
            for listen in self.listeners:
                listen(*self.latest)
        return self.latest[1]


class Saving:
    """Saves a checkpoint every ``every`` steps and after the ``last`` (every=0: never); ``save`` does it now.

    It must be the last observer: ``position`` (the offset of metrics.jsonl) then includes what the others wrote of the
    step; ``note`` must be the first. ``position`` is called on every rank, must not be a collective, and counts on
    rank 0 alone. ``failures``: ``failure_counts`` of the processes before this one; ``inputs``: what the run has read.
    """

    def __init__(
        self,
        *,
        checkpoints: Checkpoints,
        stages: Stages,
        position: Callable[[], Mapping[str, Any]],
        failures: Mapping[str, int | float] | None,
        inputs: Inputs,
        every: int,
        last: int,
    ):
        self.checkpoints, self.stages, self.position, self.failures = checkpoints, stages, position, failures
        self.inputs, self.every, self.last = inputs, every, last
        self._finished: tuple[int, int] | None = None  # number and cursor of the last finished step

    def note(self, step: Step) -> None:
        """Remember that a step is finished: ``save`` saves this one. Not a collective."""
        self._finished = step.number, step.cursor

    def __call__(self, step: Step) -> None:
        """A collective."""
        self.note(step)
        if self.every and (step.number % self.every == 0 or step.number == self.last):
            self.save()

    def save(self) -> None:
        """Save the last finished step, if this process has finished one. A collective."""
        if self._finished is None:
            return
        number, cursor = self._finished
        failures = failure_counts(self.stages, self.failures)
        extra = {**self.position(), "failures": failures, "inputs": dict(self.inputs)}
        with elapsed(f"writing the checkpoint after step {number}"):
            self.checkpoints.save(number, cursor, self.stages, extra)

    @contextlib.contextmanager
    def after_service_errors(self) -> Iterator[None]:
        """Save when the block ends with a ServiceError, which all ranks raise together. A collective then."""
        try:
            yield
        except ServiceError:
            self.save()
            raise
