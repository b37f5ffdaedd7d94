"""A step's groups are judged in threads of their own while others are still being sampled: rewards, embeddings and
credits."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dqo import distributed
from dqo.capabilities import Concurrent, PaysTokens
from dqo.contracts import check_embeddings, check_rewards, checked_credits, checked_token_credits
from dqo.metrics.clock import Clock
from dqo.records import Experience, Rollouts
from dqo.stages import Collectors, Reward

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A group that is being judged."""

    group: Rollouts
    rewards: Future
    embeddings: Future


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The threads in which reward and encoder work; ``judges`` makes them."""

    reward: Executor
    embed: Executor

    def submit(self, stages: Collectors, clock: Clock, group: Rollouts) -> Pending:
        """Begin to judge a group. Not a collective."""
        return Pending(
            group=group,
            rewards=self.reward.submit(_score, stages, clock, group),
            embeddings=self.embed.submit(_encode, stages, clock, group),
        )


@contextmanager
def judges(stages: Collectors) -> Iterator[Judges]:
    """Two threads for reward and encoder together; one that is ``Concurrent`` has threads of its own. After an error
    the groups that wait are not judged."""
    own = {
        name: stage.calls_at_a_time
        for name, stage in (("reward", stages.reward), ("embed", stages.embed))
        if isinstance(stage, Concurrent)
    }
    with (
        distributed.thread_pool(2, finishes=False) as shared,
        distributed.thread_pool(own.get("reward", 1), finishes=False) as reward,  # threads start when there is work
        distributed.thread_pool(own.get("embed", 1), finishes=False) as embed,
    ):
        yield Judges(reward=reward if "reward" in own else shared, embed=embed if "embed" in own else shared)


def side_by_side(reward: Reward, judge: Callable[[Rollouts], T], sampled: Iterator[Rollouts]) -> Iterator[T]:
    """What ``judge``, which asks the reward, makes of each record, in order. Of a ``Concurrent`` reward several are
    judged at a time, while others are being sampled. Not a collective but for ``sampled``."""
    if not isinstance(reward, Concurrent):
        yield from map(judge, sampled)
        return
    with distributed.thread_pool(reward.calls_at_a_time, finishes=False) as pool:
        for done in [pool.submit(judge, rollouts) for rollouts in sampled]:
            yield done.result()


def credited(stages: Collectors, clock: Clock, judged: Sequence[Pending]) -> list[Experience]:
    """The groups with rewards, embeddings and credits, in their order. Not a collective."""
    return [_credit(stages, clock, each) for each in judged]


def _score(stages: Collectors, clock: Clock, rollouts: Rollouts):
    with clock("reward"):
        return stages.reward.score(rollouts)


def _encode(stages: Collectors, clock: Clock, rollouts: Rollouts):
    if not stages.credit.uses_embeddings:
        return None
    with clock("embed"):
        return stages.embed.encode(rollouts)


def _credit(stages: Collectors, clock: Clock, judged: Pending) -> Experience:
    rollouts, credit = judged.group, stages.credit
    rewards, embeddings_PKD = judged.rewards.result(), judged.embeddings.result()
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
