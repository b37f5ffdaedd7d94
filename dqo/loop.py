"""Algorithm 1: the loop of Diversity Quality Optimization (arXiv 2509.04784), one line a stage.

    prompts → rollouts → rewards ┐
     task      rollout    reward ├→ credits → estimates → targets → update → weights back
                    └→ embeddings┘   credit    learner   advantage  learner   rollout.load_weights
                         embed

It knows neither Hydra nor an engine. A group is never split, and one rank owns it: the credit needs all of it and
nothing else, so data parallelism costs no communication beyond the learner's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dqo import distributed
from dqo.batching import first_group, gather_step, join, split
from dqo.capabilities import Pausing
from dqo.contracts import failing_together, stage_numbers
from dqo.distributed import Channel
from dqo.errors import StageError
from dqo.judging import Judges, credited, judges
from dqo.metrics.clock import Clock
from dqo.records import Estimates, Experience, Step, Targets
from dqo.redrawing import Draws
from dqo.stages import Collectors, Stages

Observer = Callable[[Step], None]  # runs on every rank, in the main thread, between two steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of what. Example: 40 steps of 4 prompts × 8 completions, alpha = 1."""

    steps: int
    prompts: int  # per step, on this rank
    k: int
    alpha: float
    seed: int
    ahead: int = 0  # 1: sample step n+1 while the learner is on step n
    redraws: int = 0  # dynamic sampling: rounds that replace groups without a signal
    redraw_signal: float = 0.0  # share of the scores' standard deviation that a signal takes; 0: any difference


def train(
    stages: Stages, plan: Plan, observers: Sequence[Observer] = (), *, step: int = 0, cursor: int = 0,
    failures: Mapping[str, int | float] | None = None,
) -> None:  # fmt: skip
    """Run steps ``step + 1`` to ``plan.steps``. ``observers`` see each finished step, in order: log, evaluate,
    checkpoint. A resumed run passes the step, the cursor and the ``failure_counts`` of its checkpoint. A collective."""
    with distributed.thread_pool(1) as background, judges(stages) as judging:
        coming: Future | None = None
        for number in range(step + 1, plan.steps + 1):
            with _step_named(number):
                draws, cursor, clock = coming.result() if coming else collect(stages, plan, judging, cursor)
                experience = draws.experience()
                overlap = plan.ahead and number < plan.steps
                coming = background.submit(collect, stages, plan, judging, cursor) if overlap else None
                if not coming:
                    with clock("sync"):  # engines that sleep take as long as copying their weights
                        pause(stages)
                with clock("learner"):
                    estimates = stages.learner.estimate(experience.rollouts)
                    targets = _targets(stages, experience, estimates, plan.alpha)
                    report = stages.learner.update(experience, estimates, targets)
                if coming:
                    wait([coming])  # weights never change under a sampling engine
                with clock("sync"):
                    stages.rollout.load_weights(stages.learner.weights(), version=number)
                    if stages.check_engine:
                        stages.check_engine(first_group(experience.rollouts), number)
                done = gather_step(Step(
                    number=number, cursor=cursor, experience=experience, targets=targets,
                    report={**report, **stage_numbers(stages, failures), **draws.numbers()},
                    seconds=clock.seconds, elapsed=clock.elapsed,
                ))  # fmt: skip
                for observe in observers:
                    observe(done)


def collect(stages: Stages, plan: Plan, judging: Judges, cursor: int) -> tuple[Draws, int, Clock]:
    """One step's groups: sampled, judged and credited; and the cursor after the last prompt drawn. A collective, on
    the sampling channel, which raises a service's error on all ranks."""
    draws = Draws(
        advantage=stages.advantage, alpha=plan.alpha, prompts=plan.prompts, redraws=plan.redraws,
        signal=plan.redraw_signal,
    )  # fmt: skip
    clock, world, rank = Clock(), distributed.world_size(), distributed.rank()
    while missing := draws.missing():  # all ranks draw alike
        prompts, cursor = stages.task.draw(cursor, missing * world)
        with clock("rollout"):  # groups are judged while others are still being sampled
            groups = stages.rollout.generate(prompts[rank::world], k=plan.k, seed=plan.seed)
            judged = [judging.submit(stages, clock, group) for group in groups]
        with failing_together(Channel.SAMPLING):
            found = credited(stages, clock, judged)
        draws.add(split(join(found)))
    return draws, cursor, clock


def pause(stages: Collectors) -> None:
    """Free the device memory of everything that samples and judges."""
    for stage in (stages.rollout, stages.reward, stages.embed):
        if isinstance(stage, Pausing):
            stage.pause()


@contextmanager
def _step_named(step: int) -> Iterator[None]:
    """Adds the step to a StageError: stages do not know it."""
    try:
        yield
    except StageError as error:
        if error.step is not None:
            raise
        raise type(error)(error.stage, error.message, positions=error.positions, step=step) from error


def _targets(stages: Stages, experience: Experience, estimates: Estimates, alpha: float) -> Targets:
    targets, credits_BT = stages.advantage(experience, estimates, alpha=alpha), experience.token_credits_BT
    return targets if credits_BT is None else replace(targets, advantages_BT=targets.advantages_BT + alpha * credits_BT)
