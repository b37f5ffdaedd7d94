"""Algorithm 1: the loop of Diversity Quality Optimization (arXiv 2509.04784), one line a stage.

    prompts → rollouts → rewards ┐
     task      rollout    reward ├→ credits → estimates → targets → update → weights back
                    └→ embeddings┘   credit    learner   advantage  learner   rollout.load_weights
                         embed

It knows neither Hydra nor an engine. A group is never split, and one rank owns it: the credit needs all of it and
nothing else, so data parallelism costs no communication beyond the learner's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dqo import distributed
from dqo.batching import first_group, gather_step, join, split
from dqo.capabilities import Pausing, PaysTokens
from dqo.contracts import check_embeddings, check_rewards, checked_credits, checked_token_credits, stage_numbers
from dqo.distributed import Channel
from dqo.errors import StageError
from dqo.metrics.clock import Clock
from dqo.records import Estimates, Experience, Rollouts, Step, Targets
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
    redraws: int = 0  # dynamic sampling: rounds that replace groups whose advantages would all be 0


def train(
    stages: Stages, plan: Plan, observers: Sequence[Observer] = (), *, step: int = 0, cursor: int = 0,
    failures: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Run steps ``step + 1`` to ``plan.steps``. ``observers`` see each finished step, in order: log, evaluate,
    checkpoint. A resumed run passes the step, the cursor and the ``failure_counts`` of its checkpoint. A collective."""
    with distributed.thread_pool(1) as background, distributed.thread_pool(2) as judges:
        coming: Future | None = None
        for number in range(step + 1, plan.steps + 1):
            with _step_named(number):
                experience, cursor, clock = coming.result() if coming else collect(stages, plan, judges, cursor)
                overlap = plan.ahead and number < plan.steps
                coming = background.submit(collect, stages, plan, judges, cursor) if overlap else None
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
                    report={**report, **stage_numbers(stages, failures)}, seconds=clock.seconds, elapsed=clock.elapsed,
                ))  # fmt: skip
                for observe in observers:
                    observe(done)


def collect(stages: Stages, plan: Plan, judges: Executor, cursor: int) -> tuple[Experience, int, Clock]:
    """One step's groups: sampled, judged and credited; and the cursor after the last prompt drawn. A collective, on
    the sampling channel."""
    kept, dropped = list[Experience](), list[Experience]()
    clock, world, rank = Clock(), distributed.world_size(), distributed.rank()
    for _ in range(1 + plan.redraws):
        missing = distributed.all_reduce_max(plan.prompts - len(kept), Channel.SAMPLING)  # all ranks draw alike
        if missing <= 0:
            break
        prompts, cursor = stages.task.draw(cursor, missing * world)
        with clock("rollout"):  # groups are judged while others are still being sampled
            judged = [
                (group, judges.submit(_score, stages, clock, group), judges.submit(_encode, stages, clock, group))
                for group in stages.rollout.generate(prompts[rank::world], k=plan.k, seed=plan.seed)
            ]
        for group in split(join([_credit(stages, clock, *each) for each in judged])):
            signal = not plan.redraws or _has_signal(stages, group, plan.alpha)
            (kept if signal else dropped).append(group)
    return join((kept + dropped)[: plan.prompts]), cursor, clock


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
    rewards, embeddings_PKD, credit = scored.result(), encoded.result(), stages.credit
    check_rewards(rollouts, rewards)
    earning_PK = rewards.valid_PK & ~rollouts.empty_PK
    if embeddings_PKD is not None:
        check_embeddings(rollouts, earning_PK, embeddings_PKD)
    with clock("credit"):
        credits_PK = checked_credits(rollouts, earning_PK, credit.assign(rollouts, rewards, embeddings_PKD))
        credits_BT = credit.assign_tokens(rollouts, rewards) if isinstance(credit, PaysTokens) else None
    return Experience(
        rollouts=rollouts, rewards=rewards, embeddings_PKD=embeddings_PKD, credits_PK=credits_PK,
        token_credits_BT=checked_token_credits(rollouts, earning_PK, credits_BT),
    )  # fmt: skip


def _has_signal(stages: Stages, group: Experience, alpha: float) -> bool:
    paid_BT = group.token_credits_BT
    return (paid_BT is not None and bool((alpha * paid_BT).any())) or stages.advantage.has_signal(group, alpha=alpha)


def _targets(stages: Stages, experience: Experience, estimates: Estimates, alpha: float) -> Targets:
    targets, credits_BT = stages.advantage(experience, estimates, alpha=alpha), experience.token_credits_BT
    return targets if credits_BT is None else replace(targets, advantages_BT=targets.advantages_BT + alpha * credits_BT)
