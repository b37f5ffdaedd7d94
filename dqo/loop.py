"""Algorithm 1: the loop of Diversity Quality Optimization (arXiv 2509.04784), one line a stage.

    prompts → rollouts → rewards ┐
     task      rollout    reward ├→ credits → estimates → targets → update → weights back
                    └→ embeddings┘   credit    learner   advantage  learner   rollout.load_weights
                         embed

It knows neither Hydra nor an engine. A group is never split, and one rank owns it: the credit needs all of it and
nothing else, so data parallelism costs no communication beyond the learner's own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from dqo import distributed
from dqo.batching import join, of_all_ranks, split
from dqo.contracts import check_embeddings, check_rewards, earned
from dqo.distributed import Channel
from dqo.errors import StageError
from dqo.records import Experience, Rollouts, Step
from dqo.stages import Counting, Stages

Observer = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much of what. Example: 40 steps of 4 prompts × 8 completions, alpha = 1."""

    steps: int
    prompts: int  # a step, on this rank
    k: int
    alpha: float
    seed: int
    ahead: int = 0  # 1: sample step n+1 while the learner is on step n
    redraws: int = 0  # dynamic sampling: rounds that replace groups without signal


@dataclass
class Clock:
    """Seconds by stage; stages that overlap are each timed on their own."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def train(
    stages: Stages, plan: Plan, observers: Sequence[Observer] = (), *, step: int = 0, cursor: int = 0,
    counted: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Run steps ``step + 1`` to ``plan.steps``. ``observers`` see each finished step, in order: log, evaluate,
    checkpoint. A resumed run passes the step and cursor of its checkpoint, and what had been ``tolerated`` by then."""
    with distributed.thread_pool(1) as background, distributed.thread_pool(2) as judges:
        coming: Future | None = None
        for number in range(step + 1, plan.steps + 1):
            with _failures_of(number):
                experience, cursor, clock = coming.result() if coming else collect(stages, plan, judges, cursor)
                overlap = plan.ahead and number < plan.steps
                coming = background.submit(collect, stages, plan, judges, cursor) if overlap else None
                if not coming:
                    stages.rollout.pause()
                with clock("learner"):
                    estimates = stages.learner.estimate(experience.rollouts)
                    targets = stages.advantage(experience, estimates, alpha=plan.alpha)
                    report = stages.learner.update(experience, estimates, targets)
                if coming:
                    wait([coming])  # weights never change under a sampling engine
                with clock("sync"):
                    stages.rollout.load_weights(stages.learner.weights(), version=number)
                failures = {f"rewards/{name}": float(n) for name, n in tolerated(stages, counted).items()}
                mine = Step(
                    number=number, cursor=cursor, experience=experience, targets=targets,
                    report={**report, **failures}, seconds=clock.seconds,
                )  # fmt: skip
                done = of_all_ranks(mine)
                for observe in observers:
                    observe(done)


def collect(stages: Stages, plan: Plan, judges: Executor, cursor: int) -> tuple[Experience, int, Clock]:
    """Sample, judge and credit one step's groups; the cursor returned stands behind the last prompt drawn."""
    kept, dropped = list[Experience](), list[Experience]()
    clock, world, rank = Clock(), distributed.world_size(), distributed.rank()
    for _ in range(1 + plan.redraws):
        missing = distributed.all_reduce_max(plan.prompts - len(kept), Channel.SAMPLING)  # ranks stay in step
        if missing <= 0:
            break
        prompts, cursor = stages.task.draw(cursor, missing * world)
        with clock("rollout"):  # groups are judged while others are still being sampled
            judged = [
                (
                    rollouts,
                    judges.submit(_score, stages, clock, rollouts),
                    judges.submit(_encode, stages, clock, rollouts),
                )
                for rollouts in stages.rollout.generate(prompts[rank::world], k=plan.k, seed=plan.seed)
            ]
        for group in split(join([_credit(stages, clock, *chunk) for chunk in judged])):
            signal = not plan.redraws or stages.advantage.has_signal(group, alpha=plan.alpha)
            (kept if signal else dropped).append(group)
    return join((kept + dropped)[: plan.prompts]), cursor, clock


@contextmanager
def _failures_of(step: int) -> Iterator[None]:
    """Stages do not know which step it is; what they raise should say."""
    try:
        yield
    except StageError as error:
        if error.step is not None:
            raise
        raise StageError(error.stage, error.message, positions=error.positions, step=step) from error


def _score(stages: Stages, clock: Clock, rollouts: Rollouts):
    with clock("reward"):
        return stages.reward.score(rollouts)


def _encode(stages: Stages, clock: Clock, rollouts: Rollouts):
    if not stages.credit.uses_embeddings:
        return None
    with clock("embed"):
        return stages.embed.encode(rollouts)


def _credit(stages: Stages, clock: Clock, rollouts: Rollouts, scored: Future, encoded: Future) -> Experience:
    rewards, embeddings_PKD = scored.result(), encoded.result()
    check_rewards(rollouts, rewards)
    if embeddings_PKD is not None:
        check_embeddings(rollouts, rewards.valid_PK, embeddings_PKD)
    with clock("credit"):
        credits_PK = stages.credit.assign(rollouts, rewards, embeddings_PKD)
    credits_PK = earned(rollouts, rewards.valid_PK, credits_PK)
    return Experience(rollouts=rollouts, rewards=rewards, embeddings_PKD=embeddings_PKD, credits_PK=credits_PK)


def tolerated(stages: Stages, counted: Mapping[str, int] | None = None) -> dict[str, int]:
    """Failures of the reward that did not end the run, by name, since its start, on all ranks; ``counted``: by earlier
    processes. A collective."""
    now = distributed.all_gather(dict(stages.reward.counters()) if isinstance(stages.reward, Counting) else {})
    return {name: sum(each[name] for each in now) + (counted or {}).get(name, 0) for name in now[0]}
