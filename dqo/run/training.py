"""One training run: measured before, trained, watched, kept, measured after."""

import contextlib
import logging
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from dqo import distributed
from dqo.config.resume import checkpoint_of, saved_overrides
from dqo.config.typed import plain
from dqo.errors import ConfigError
from dqo.evaluation import Evaluation
from dqo.files.atomic import replacing, sweep
from dqo.files.checkpoint import Checkpoints, Resumed, restore, restore_generators
from dqo.files.ownership import Ownership
from dqo.loop import tolerated, train
from dqo.models import parameter_counts, save_policy
from dqo.observe.card import model_card
from dqo.observe.completions import Completions
from dqo.observe.curves import draw_curves
from dqo.observe.evaluations import Evaluations
from dqo.observe.metrics_file import MetricsFile, read_metrics
from dqo.observe.summary import print_end, write_summary
from dqo.observe.trackers import TensorBoard, Wandb
from dqo.observe.view import View
from dqo.records import Step
from dqo.run.build import Policy, make_plan, make_stages
from dqo.run.moments import Evaluating, Listener, Saving
from dqo.run.policy import load
from dqo.run.stopping import Stopped, Stopping
from dqo.stages import Stages, Task
from dqo.task.maps.world_map import Atlas, draw_answers

log = logging.getLogger(__name__)
EVAL_SEED = 1_000_003  # the same noise for every run, and none that training draws


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run consists of once it is built. Of several workers the first alone writes."""

    config: DictConfig
    folder: Path
    ownership: Ownership | None  # the first worker's
    stopping: Stopping
    policy: Policy
    task: Task
    stages: Stages
    checkpoints: Checkpoints
    view: View
    evaluating: Evaluating
    metrics: MetricsFile | None  # the first worker's, like what follows
    evaluations: Evaluations | None
    trackers: tuple[TensorBoard | Wandb, ...]


def run(config: DictConfig, folder: Path, ownership: Ownership | None, stopping: Stopping) -> None:
    """Train to the end, or raise Stopped between two steps with a checkpoint behind it.

    The order makes each moment one that can be gone on from: nothing is written before all that may be refused has
    been, what a resumed run will write again is forgotten before it is written, and summary.json comes last.
    """
    torch.manual_seed(config.seed)
    policy, task = load(config)
    stages = make_stages(config, policy, task)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
    )
    checkpoint = distributed.broadcast(_checkpoint(config, checkpoints) if config.resume and ownership else None)
    resumed = restore(checkpoint, stages) if checkpoint else Resumed(step=0, cursor=0, extra={})
    if resumed.step > config.steps:
        raise ConfigError(
            f"steps={config.steps}: {checkpoint} is after step {resumed.step}; type steps={resumed.step} or more, or "
            f"resume={checkpoints.folder}/step_… of an earlier one"
        )
    if checkpoint:
        stages.rollout.load_weights(stages.learner.weights(), version=resumed.step)
    built = _build(config, folder, ownership, stopping, policy, task, stages, checkpoints, resumed)
    with built.view, _closing(built):
        before = _before(built, resumed)
        if checkpoint:
            restore_generators(checkpoint)
        with stopping.after_the_step(built.view.say):
            counted = resumed.extra.get("counted")
            observers = _observers(built, counted)
            train(stages, make_plan(config), observers, step=resumed.step, cursor=resumed.cursor, counted=counted)
        after = built.evaluating.measure(config.steps)
        built.view.say("writing policy and pictures")
        _write(built, before, after)
    print_end(built.view.console, run_dir=built.folder, steps=config.steps, before=before, after=after)


def _checkpoint(config: DictConfig, checkpoints: Checkpoints) -> Path | None:
    """Where a resumed run goes on from; None: at the start, since it was ended before its first checkpoint.

    Raises ConfigError where that start would throw away more than a checkpoint's worth of steps.
    """
    if name := checkpoint_of(config.resume):
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


def _before(run: Run, resumed: Resumed) -> Evaluation:
    """The evaluation before the first step; a resumed run has it already."""
    known = distributed.broadcast(run.evaluations and run.evaluations.read(0, run.evaluating.prompts))
    if known is None:
        if resumed.step:
            log.warning("other held-out prompts than the run's: 'before' is measured after step %d", resumed.step)
        return run.evaluating.measure(resumed.step)
    run.view.evaluated(0, known)
    return known


def _build(
    config: DictConfig, folder: Path, ownership: Ownership | None, stopping: Stopping, policy: Policy, task: Task,
    stages: Stages, checkpoints: Checkpoints, resumed: Resumed,
) -> Run:  # fmt: skip
    metrics = evaluations = None
    trackers: tuple[TensorBoard | Wandb, ...] = ()
    console = Console(quiet=ownership is None)
    view = View(
        steps=config.steps, alpha=config.alpha, log_every=config.log.every, live=config.log.live,
        title=f"{_name(config)} · alpha={config.alpha:g} k={config.k}", place=str(folder), console=console,
    )  # fmt: skip
    listeners: list[Listener] = [view.evaluated]
    if ownership:
        metrics = MetricsFile(path=folder / "metrics.jsonl", alpha=config.alpha)
        evaluations = Evaluations(folder=folder / "evaluations")
        _rewind(folder, metrics, evaluations, checkpoints, resumed)
        _announce(config, checkpoints, policy)
        console.print(batch_line(config), soft_wrap=True, highlight=False)
        trackers = tuple(_trackers(config, folder, resumed))
        listeners = [metrics.evaluated, evaluations.evaluated, *listeners, *(each.evaluated for each in trackers)]
    evaluating = Evaluating(
        stages=stages,
        prompts=task.held_out()[: config.eval.prompts],
        listeners=listeners,
        say=view.say,
        every=config.eval.every,
        n=config.eval.n,
        seed=EVAL_SEED,
    )
    known = evaluations.read(resumed.step, evaluating.prompts) if evaluations and resumed.step else None
    measured = distributed.broadcast(known)
    if measured and measured.n == config.eval.n:  # by the run that was ended, before its checkpoint
        evaluating.latest = (resumed.step, measured)
    return Run(
        config=config, folder=folder, ownership=ownership, stopping=stopping, policy=policy, task=task, stages=stages,
        checkpoints=checkpoints, view=view, metrics=metrics, evaluations=evaluations, evaluating=evaluating,
        trackers=trackers,
    )  # fmt: skip


def _rewind(
    folder: Path, metrics: MetricsFile, evaluations: Evaluations, checkpoints: Checkpoints, resumed: Resumed
) -> None:
    """Forget what was written after the checkpoint. Checkpoints first: one that counts on more lines of metrics.jsonl
    than are left could not be gone on from. An evaluation is known if its line is left."""
    offset = resumed.extra.get("metrics_offset", 0)
    metrics.require(offset)
    checkpoints.forget_after(resumed.step)
    metrics.truncate(offset)
    lines = read_metrics(folder / "metrics.jsonl")
    evaluations.keep({line["step"] for line in lines if any(key.startswith("eval/") for key in line)})
    if (folder / "completions").exists():
        Completions(folder=folder / "completions").forget_after(resumed.step)
    (folder / "error.txt").unlink(missing_ok=True)  # of the failure that is being gone on from
    sweep(folder)


def _announce(config: DictConfig, checkpoints: Checkpoints, policy: Policy) -> None:
    """What the run will need on the disk, before it starts to write."""
    total, trained = parameter_counts(policy.model)
    if config.checkpoint.every:
        checkpoints.announce(
            12 * trained,  # weights and AdamW's two moments, fp32
            every=config.checkpoint.every,
            steps=config.steps,
            policy=4 * total if config.checkpoint.final else 0,
        )


def _trackers(config: DictConfig, folder: Path, resumed: Resumed) -> Iterator[TensorBoard | Wandb]:
    if config.log.tensorboard:
        yield TensorBoard(
            folder=folder / "tensorboard", alpha=config.alpha, resumed_at=resumed.step if config.resume else None
        )
    if config.log.wandb:
        yield Wandb(
            folder=folder, alpha=config.alpha, project=config.log.project, name=folder.name,
            config=plain(config),
        )  # fmt: skip


def _observers(run: Run, counted: Mapping[str, int] | None) -> list[Any]:
    """In the order they see a step; what stops the run stands behind the checkpoint."""
    config = run.config

    def extra() -> Mapping[str, Any]:
        counts = tolerated(run.stages, counted)
        if run.metrics is None:
            return {}  # the first worker's are saved
        run.metrics.sync()
        return {"metrics_offset": run.metrics.offset, "counted": counts}

    saving = Saving(
        checkpoints=run.checkpoints, stages=run.stages, extra=extra, every=config.checkpoint.every, last=config.steps
    )

    def check(step: Step) -> None:
        if run.ownership:
            run.ownership.check()

    def stop(step: Step) -> None:
        if distributed.all_reduce_max(
            run.stopping.asked
        ):  # a signal may reach one worker before and another after this
            run.checkpoints.save(step.number, step.cursor, run.stages, extra())
            raise Stopped(f"stopped after step {step.number}")

    files: list[Any] = [run.metrics] if run.metrics else []
    if run.ownership and config.log.completions:
        files.append(Completions(folder=run.folder / "completions"))
    return [check, *files, *run.trackers, run.view, run.evaluating, saving, stop]


@contextlib.contextmanager
def _closing(run: Run) -> Iterator[None]:
    with contextlib.ExitStack() as stack:  # one that fails, as on a full disk, does not keep others open
        for each in (run.metrics, *run.trackers):
            if each:
                stack.callback(each.close)
        yield


def _write(run: Run, before: Evaluation, after: Evaluation) -> None:
    """The policy, the pictures, and at last the summary, which says that the run is complete."""
    config, folder = run.config, run.folder
    weights = run.stages.learner.weights() if config.checkpoint.final else iter(())
    if run.ownership is None:
        for _ in weights:  # the first worker gets them whole
            pass
        distributed.barrier()
        return
    run.ownership.check()
    if config.checkpoint.final:
        save_policy(run.policy.model, run.policy.tokenizer, folder / "policy", weights=weights)
        card = model_card(
            name=folder.name, base_model=run.policy.name, task=_name(config), command=_command(config),
            before=before, after=after,
            **{key: config[key] for key in ("alpha", "beta", "k", "steps", "learning_rate")},
        )  # fmt: skip
        with replacing(folder / "policy" / "README.md") as path:
            path.write_text(card)
    title = f"{_name(config)} · alpha = {config.alpha:g} · k = {config.k}"
    with replacing(folder / "curves.png") as path:
        draw_curves(path, lines=read_metrics(folder / "metrics.jsonl"), title=title)
    if isinstance(run.task, Atlas):
        now = f"after {config.steps} steps, alpha = {config.alpha:g}"
        with replacing(folder / "answers.png") as path:
            draw_answers(path, atlas=run.task, panels=[("before", before.texts), (now, after.texts)])
    settings = {key: config[key] for key in ("alpha", "beta", "k", "steps", "seed", "learning_rate")}
    with replacing(folder / "summary.json") as path:
        write_summary(path, settings={"task": _name(config), **settings}, before=before, after=after)
    distributed.barrier()  # the others wait: one that had ended would look like a failure


def _command(config: DictConfig) -> str:
    typed = [text for text in saved_overrides(Path(config.run_dir)) if not text.startswith("hydra.")]
    return shlex.join(["dqo-train", *typed])


def _name(config: DictConfig) -> str:
    return config.task["_target_"].rpartition(".")[2].lower()


def batch_line(config: DictConfig) -> str:
    """How a step's batch comes about, in one line."""
    rows = config.prompts_per_step * config.k
    budget, world = config.learner.get("max_tokens_per_micro_batch"), distributed.world_size()
    return (
        f"a step: {config.prompts_per_step} prompts × k={config.k} = {rows} completions of at most "
        f"{config.max_completion_length} tokens, one update"
        + (f"; {config.prompts_per_step // world} prompts on each of {world} workers" if world > 1 else "")
        + (f"; micro-batches of at most {budget} tokens, accumulated" if budget else "")
    )
