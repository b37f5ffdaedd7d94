"""``dqo-train``: evaluate, train with logs and checkpoints, evaluate again."""

import contextlib
import logging

import torch
from rich.console import Console

from dqo import distributed
from dqo.config.advice import advice
from dqo.config.schema import Config
from dqo.evaluation import Evaluation
from dqo.files.checkpoint import restore_generators
from dqo.loop import Observer, train
from dqo.metrics.names import SCORERS, evaluation_metrics, needs_of
from dqo.metrics.training import describe
from dqo.models import parameter_counts
from dqo.observe.comparison import difference
from dqo.observe.spreads import SpreadNotice
from dqo.observe.view import View
from dqo.observe.wrong_credit import WrongCreditWarning
from dqo.records import Step
from dqo.run.build import make_plan
from dqo.run.export import export_dtype
from dqo.run.files import RunFiles
from dqo.run.job import Job
from dqo.run.references import sample_references
from dqo.run.report import batch_line, memory_line, print_report, task_name, write_report
from dqo.run.scorers import scorers_of
from dqo.run.session import Evaluating, Saving, Session, announce_disk_space, open_session
from dqo.run.stopping import Stopped
from dqo.scorers.bundle import Scorers

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Train to the end, or raise Stopped between two steps, after saving a checkpoint. A collective.

    The order lets a run go on from any moment at which it is killed: nothing is written before everything that may be
    refused has been checked, what a resumed run will write again is forgotten before it is written, and summary.json
    comes last.
    """
    config = job.config
    torch.manual_seed(config.seed)
    with contextlib.ExitStack() as stack:
        session = open_session(job, stack)
        scorers = _scorers(job, session)
        view, files = _open_view(job), None
        if job.ownership:
            files = RunFiles(job, session.checkpoints, session.resumed)
            files.close(stack)
            size = export_dtype(config, session.policy).itemsize * parameter_counts(session.policy.model)[0]
            announce_disk_space(config, session, policy_bytes=size)
            for line in (batch_line(config), memory_line(session.stages)):
                view.console.print(line, soft_wrap=True, highlight=False)
            for line in advice(config):
                log.warning(line)
        stack.enter_context(view)
        evaluating, saving = _evaluating(job, session, files, view, scorers), _saving(config, session, files)
        before = _before(session, files, view, evaluating)
        _make_up(session, files, evaluating)
        sample_references(config, job.folder, session.stages, session.references, say=view.say)
        if session.checkpoint:
            restore_generators(session.checkpoint)
        with saving.after_service_errors():
            with job.stopping.after_the_step(view.say):
                resumed, failures = session.resumed, session.resumed.extra.get("failures")
                observers = _observers(job, files, view, evaluating, saving)
                train(
                    session.stages, make_plan(config), observers,
                    step=resumed.step, cursor=resumed.cursor, failures=failures,
                )  # fmt: skip
            after = evaluating.measure(config.steps)
        view.say("writing policy and pictures")
        write_report(job, session, before, after)
    print_report(view.console, job, session, before, after)


def _open_view(job: Job) -> View:
    config = job.config
    return View(
        steps=config.steps, log_every=config.log.every, live=config.log.live, place=str(job.folder),
        title=f"{task_name(config)} · alpha={config.alpha:g} k={config.k}",
        console=Console(quiet=job.ownership is None),
    )  # fmt: skip


def _evaluating(job: Job, session: Session, files: RunFiles | None, view: View, scorers: Scorers | None) -> Evaluating:
    """The evaluator. On resume it reuses the evaluation written after the checkpoint's step, if n and seed are the same
    and it has all metrics that are chosen now."""
    config, step = job.config, session.resumed.step
    evaluating = Evaluating(
        stages=session.stages,
        prompts=session.task.held_out()[: config.eval.prompts],
        listeners=[view.evaluated, *([files.evaluated] if files else [])],
        say=view.say,
        every=config.eval.every,
        n=config.eval.n,
        seed=config.eval.seed,
        families=config.eval.metrics,
        scorers=scorers,
    )
    known = distributed.broadcast(files.evaluations.read(step, evaluating.prompts) if files and step else None)
    wanted = evaluation_metrics(config.eval.n, config.eval.metrics)
    if known and (known.n, known.seed) == (config.eval.n, config.eval.seed) and known.metrics.keys() >= {*wanted}:
        evaluating.latest = (step, known)
    return evaluating


def _scorers(job: Job, session: Session) -> Scorers | None:
    """The models that the chosen metrics ask; None: they ask none."""
    evaluation = job.config.eval
    asked = needs_of(evaluation.metrics) & SCORERS.keys()
    return scorers_of(evaluation, session.policy.device, job.folder) if asked else None


def _before(session: Session, files: RunFiles | None, view: View, evaluating: Evaluating) -> Evaluation:
    """The evaluation before the first step; a resumed run has it already, and says where it cannot be compared."""
    step = session.resumed.step
    known = distributed.broadcast(files.evaluations.measured(0, session.task.held_out()) if files else None)
    if known is None:
        if step:
            log.warning("evaluations/step_00000.json is missing: 'before' is measured after step %d", step)
        return evaluating.measure(step)
    if reason := difference(known, n=evaluating.n, prompts=evaluating.prompts):
        log.warning(reason)
    view.evaluated(0, known)
    return known


def _make_up(session: Session, files: RunFiles | None, evaluating: Evaluating) -> None:
    """Make the evaluation during which the resumed run ended, with a checkpoint, since a service was down."""
    step = session.resumed.step
    if step and evaluating.is_due(step):
        missing = files is not None and files.evaluations.measured(step, ()) is None
        if distributed.broadcast(missing):
            evaluating.measure(step)


def _saving(config: Config, session: Session, files: RunFiles | None) -> Saving:
    return Saving(
        checkpoints=session.checkpoints,
        stages=session.stages,
        position=files.position if files else dict,
        failures=session.resumed.extra.get("failures"),
        inputs=session.policy.inputs,
        every=config.checkpoint.every,
        last=config.steps,
    )


def _observers(job: Job, files: RunFiles | None, view: View, evaluating: Evaluating, saving: Saving) -> list[Observer]:
    """In the order they see a step: what stops the run comes after the checkpoint."""
    config = job.config
    sinks = [*files.sinks, view] if files else []
    if files and config.alpha:
        sinks += [WrongCreditWarning(gate=config.credit.get("gate")), SpreadNotice(alpha=config.alpha)]

    def check_folder(step: Step) -> None:
        if job.ownership:
            job.ownership.check()

    def record(step: Step) -> None:
        metrics = describe(step, config.alpha) if sinks else {}
        for sink in sinks:
            sink(step, metrics)

    def stop(step: Step) -> None:
        if distributed.all_reduce_max(job.stopping.asked):  # a signal may reach the ranks before and after this line
            saving.save()
            raise Stopped(f"stopped after step {step.number}")

    return [saving.note, check_folder, record, evaluating, saving, stop]
