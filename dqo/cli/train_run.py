"""One training run: measured before, trained, watched, kept, measured after."""

import contextlib
import logging
import shlex
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from dqo.checkpoint import Checkpoints, Resumed, restore
from dqo.cli.policy import load
from dqo.config.build import Policy, make_plan, make_stages
from dqo.config.resume import saved_overrides
from dqo.config.typed import plain
from dqo.evaluation import Evaluation
from dqo.loop import train
from dqo.models import save_policy
from dqo.observe.atlas import Atlas, draw_answers
from dqo.observe.card import model_card
from dqo.observe.completions import Completions
from dqo.observe.curves import draw_curves
from dqo.observe.evaluations import Evaluations
from dqo.observe.metrics_file import MetricsFile, read_metrics
from dqo.observe.moments import Evaluating, Saving
from dqo.observe.summary import print_end, write_summary
from dqo.observe.trackers import TensorBoard, Wandb
from dqo.observe.view import View
from dqo.records import Step
from dqo.stages import Stages, Task

log = logging.getLogger(__name__)
EVAL_SEED = 1_000_003  # the same noise for every run, and none that training draws


class Stopped(Exception):
    """SIGTERM or Ctrl-C, obeyed between two steps."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run consists of once it is built."""

    config: DictConfig
    folder: Path
    policy: Policy
    task: Task
    stages: Stages
    checkpoints: Checkpoints
    view: View
    metrics: MetricsFile
    evaluations: Evaluations
    evaluating: Evaluating
    trackers: tuple[TensorBoard | Wandb, ...]


def run(config: DictConfig) -> None:
    """Train to the end, or raise Stopped between two steps with a checkpoint behind it."""
    torch.manual_seed(config.seed)
    policy, task = load(config)
    stages = make_stages(config, policy, task)
    folder = Path(config.run_dir)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        parameters=sum(p.numel() for p in policy.model.parameters()) if config.checkpoint.every else None,
    )
    resumed = restore(checkpoints.latest(), stages) if config.resume else Resumed(step=0, cursor=0, extra={})
    if resumed.step:
        stages.rollout.load_weights(stages.learner.weights(), version=resumed.step)
        log.info("going on after step %d", resumed.step)
    built = _build(config, folder, policy, task, stages, checkpoints, resumed)
    with built.view, _closing(built):
        before = built.evaluations.read(0, built.evaluating.prompts)
        if before:  # a resumed run has measured it already
            built.view.evaluated(0, before)
        else:
            before = built.evaluating.measure(resumed.step)
        train(stages, make_plan(config), _observers(built), step=resumed.step, cursor=resumed.cursor)
        after = built.evaluating.measure(config.steps)
        built.view.say("writing policy and pictures")
        _write(built, before, after)
    print_end(built.view.console, run_dir=folder, steps=config.steps, before=before, after=after)


def _build(
    config: DictConfig, folder: Path, policy: Policy, task: Task, stages: Stages, checkpoints: Checkpoints,
    resumed: Resumed,
) -> Run:  # fmt: skip
    metrics = MetricsFile(path=folder / "metrics.jsonl", alpha=config.alpha)
    metrics.truncate(resumed.extra.get("metrics_offset", 0))
    evaluations = Evaluations(folder=folder / "evaluations")
    console = Console()
    console.print(batch_line(config), soft_wrap=True, highlight=False)
    view = View(
        steps=config.steps, alpha=config.alpha, log_every=config.log.every, live=config.log.live,
        title=f"{_name(config)} · alpha={config.alpha:g} k={config.k}", place=str(folder), console=console,
    )  # fmt: skip
    trackers = tuple(_trackers(config, folder, resumed))
    evaluating = Evaluating(
        stages=stages,
        prompts=task.held_out()[: config.eval.prompts],
        listeners=[metrics.evaluated, evaluations.evaluated, view.evaluated, *(each.evaluated for each in trackers)],
        say=view.say,
        every=config.eval.every,
        n=config.eval.n,
        seed=EVAL_SEED,
    )
    return Run(
        config=config, folder=folder, policy=policy, task=task, stages=stages, checkpoints=checkpoints, view=view,
        metrics=metrics, evaluations=evaluations, evaluating=evaluating, trackers=trackers,
    )  # fmt: skip


def _trackers(config: DictConfig, folder: Path, resumed: Resumed) -> Iterator[TensorBoard | Wandb]:
    if config.log.tensorboard:
        yield TensorBoard(folder=folder / "tensorboard", alpha=config.alpha, resumed_at=resumed.step or None)
    if config.log.wandb:
        yield Wandb(
            folder=folder, alpha=config.alpha, project=config.log.project, name=folder.name,
            config=plain(config), id=resumed.extra.get("wandb_id"),
        )  # fmt: skip


def _observers(run: Run) -> list[Any]:
    """In the order they see a step; what stops the run stands behind the checkpoint."""
    config = run.config

    def extra() -> Mapping[str, Any]:
        wandb = next((tracker.id for tracker in run.trackers if isinstance(tracker, Wandb)), None)
        return {"metrics_offset": run.metrics.offset, "wandb_id": wandb}

    saving = Saving(
        checkpoints=run.checkpoints, stages=run.stages, extra=extra, every=config.checkpoint.every, last=config.steps
    )
    completions = [Completions(folder=run.folder / "completions")] if config.log.completions else []
    return [run.metrics, *completions, *run.trackers, run.view, run.evaluating, saving, _stop_on_signal(run, saving)]


def _stop_on_signal(run: Run, saving: Saving):
    """SIGTERM or Ctrl-C end the run after the step it is in, with a checkpoint; a second one ends it at once."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        asked.append(number)
        run.view.say("stopping after this step; once more to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)

    def observe(step: Step) -> None:
        if asked and step.number < run.config.steps:
            run.checkpoints.save(step.number, step.cursor, run.stages, saving.extra())
            raise Stopped(
                f"stopped after step {step.number}; go on with dqo-train resume={shlex.quote(str(run.folder))}"
            )

    return observe


@contextlib.contextmanager
def _closing(run: Run) -> Iterator[None]:
    try:
        yield
    finally:
        for each in (run.metrics, *run.trackers):
            each.close()


def _write(run: Run, before: Evaluation, after: Evaluation) -> None:
    """The summary, the pictures and the policy."""
    config, folder = run.config, run.folder
    settings = {key: config[key] for key in ("alpha", "beta", "k", "steps", "seed", "learning_rate")}
    write_summary(folder / "summary.json", settings={"task": _name(config), **settings}, before=before, after=after)
    title = f"{_name(config)} · alpha = {config.alpha:g} · k = {config.k}"
    draw_curves(folder / "curves.png", lines=read_metrics(folder / "metrics.jsonl"), title=title)
    if isinstance(run.task, Atlas):
        now = f"after {config.steps} steps, alpha = {config.alpha:g}"
        panels = [("before", before.texts), (now, after.texts)]
        draw_answers(folder / "answers.png", atlas=run.task, panels=panels)
    if config.checkpoint.final:
        save_policy(run.policy.model, run.policy.tokenizer, folder / "policy", weights=run.stages.learner.weights())
        card = model_card(
            name=folder.name, base_model=run.policy.name, task=_name(config), command=_command(config),
            before=before, after=after,
            **{key: config[key] for key in ("alpha", "beta", "k", "steps", "learning_rate")},
        )  # fmt: skip
        (folder / "policy" / "README.md").write_text(card)


def _command(config: DictConfig) -> str:
    return shlex.join(["dqo-train", *saved_overrides(Path(config.run_dir))])


def _name(config: DictConfig) -> str:
    return config.task["_target_"].rpartition(".")[2].lower()


def batch_line(config: DictConfig) -> str:
    """How a step's batch comes about, in one line."""
    rows = config.prompts_per_step * config.k
    budget = config.learner.get("max_tokens_per_micro_batch")
    return (
        f"a step: {config.prompts_per_step} prompts × k={config.k} = {rows} completions of at most "
        f"{config.max_completion_length} tokens, one update"
        + (f"; micro-batches of at most {budget} tokens, accumulated" if budget else "")
    )
