"""The comparison of engine and learner, on an engine that is a table of weights."""

import pytest
import torch

from dqo.errors import StageError
from dqo.records import Rollouts
from dqo.rollout.engine.sync_check import SyncCheck
from tests.factories import make_rollouts

SAMPLE = make_rollouts(["w1 w2"] * 2, 2)


class Table:
    """Scores every sampled token by the sum of its weights; ``deaf`` names a tensor that it does not take. Engine and
    learner at once."""

    check_every, tolerance = 3, 0.01

    def __init__(self, weights: dict[str, float], deaf: str | None = None):
        self.table, self.deaf, self.version = dict(weights), deaf, 0
        self.scored, self.asleep = 0, False

    def generate(self, prompts, *, k: int, seed: int):
        yield from ()

    def load_weights(self, weights, *, version: int) -> None:
        self.table |= {name: float(value) for name, value in weights if name != self.deaf}
        self.version = version

    def pause(self) -> None:
        self.asleep = True

    def score(self, rollouts: Rollouts):
        self.scored, self.asleep = self.scored + 1, False
        return torch.where(rollouts.sampled_BT, sum(self.table.values()), 0.0)

    def weights(self):
        return ((name, torch.tensor(value)) for name, value in self.table.items())

    def stale(self, weights) -> list[str]:
        return [name for name, value in weights if self.table[name] != float(value)]


def pair(deaf: str | None = None) -> tuple[SyncCheck, Table, Table]:
    engine, learner = Table({"head": 0.0, "norm": 0.0}, deaf), Table({"head": 1.0, "norm": 2.0})
    return SyncCheck(engine, learner), engine, learner


def test_the_first_transfer_and_each_third_are_checked():
    check, engine, learner = pair()
    checked = []
    for version in range(1, 7):
        learner.table["head"] += 1
        before = engine.scored
        engine.load_weights(learner.weights(), version=version)
        check(SAMPLE, version)
        checked.append(engine.scored - before)
    assert checked == [1, 0, 1, 0, 0, 1] and engine.version == 6


def test_a_tensor_that_never_arrives_is_named():
    check, engine, learner = pair(deaf="head")
    engine.load_weights(learner.weights(), version=1)
    with pytest.raises(StageError, match=r"differ .* by 1 nats .*allowed: 0.01.* stale: head; .* by 1 and 1 are stale"):
        check(SAMPLE, 1)


def test_a_tensor_lost_on_the_way_is_named_and_arrives_the_second_time():
    check, engine, learner = pair()
    engine.load_weights((pair for pair in learner.weights() if pair[0] != "norm"), version=1)
    with pytest.raises(StageError, match="stale: norm; sent again, they differ by 0 and 0 are stale"):
        check(SAMPLE, 1)


def test_a_difference_within_the_tolerance_is_rounding():
    check, engine, learner = pair()
    engine.load_weights(((name, value + 0.004) for name, value in learner.weights()), version=1)
    check(SAMPLE, 1)
    assert engine.scored == 1


def test_the_engine_sleeps_while_the_learner_scores():
    check, engine, learner = pair()
    score, asleep = learner.score, []

    def watched(rollouts: Rollouts):
        asleep.append(engine.asleep)
        return score(rollouts)

    learner.score = watched
    engine.load_weights(learner.weights(), version=1)
    check(SAMPLE, 1)
    assert asleep == [True]
