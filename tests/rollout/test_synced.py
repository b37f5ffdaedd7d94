"""``sync`` on an engine that is a table of weights."""

import pytest
import torch

from dqo.errors import StageError
from dqo.records import Rollouts
from dqo.rollout.synced import Synced
from tests.factories import make_prompts, make_rollouts


class Table:
    """Scores every sampled token by the sum of its weights; ``deaf`` names a tensor that it does not take. Engine and
    learner at once."""

    check_every, tolerance = 3, 0.01

    def __init__(self, weights: dict[str, float], deaf: str | None = None):
        self.table, self.deaf, self.version = dict(weights), deaf, 0
        self.scored = 0

    def generate(self, prompts, *, k: int, seed: int):
        for prompt in prompts:
            yield make_rollouts(["w1 w2"] * k, k, prompts=[prompt])

    def load_weights(self, weights, *, version: int) -> None:
        self.table |= {name: float(value) for name, value in weights if name != self.deaf}
        self.version = version

    def pause(self) -> None: ...

    def score(self, rollouts: Rollouts):
        self.scored += 1
        return torch.where(rollouts.sampled_BT, sum(self.table.values()), 0.0)

    def weights(self):
        return ((name, torch.tensor(value)) for name, value in self.table.items())

    def stale(self, weights) -> list[str]:
        return [name for name, value in weights if self.table[name] != float(value)]


def pair(deaf: str | None = None) -> tuple[Synced, Table, Table]:
    engine, learner = Table({"head": 0.0, "norm": 0.0}, deaf), Table({"head": 1.0, "norm": 2.0})
    return Synced(engine, learner), engine, learner


def test_the_first_sync_and_each_third_are_checked():
    synced, engine, learner = pair()
    synced.load_weights(learner.weights(), version=0)
    assert not engine.scored  # nothing has been sampled: a resumed run, which is checked after its first step
    assert len(list(synced.generate(make_prompts(2), k=2, seed=0))) == 2
    checked = []
    for version in range(1, 7):
        learner.table["head"] += 1
        before = engine.scored
        synced.load_weights(learner.weights(), version=version)
        checked.append(engine.scored - before)
    assert checked == [1, 0, 1, 0, 0, 1] and engine.version == 6


def test_what_is_left_behind_for_good_is_named():
    synced, _, learner = pair(deaf="head")
    list(synced.generate(make_prompts(1), k=2, seed=0))
    with pytest.raises(StageError, match=r"differ .* by 1 nats .*allowed: 0.01.* stale: head; .* by 1 and 1 are stale"):
        synced.load_weights(learner.weights(), version=1)


def test_what_was_lost_on_the_way_is_named_and_comes_the_second_time():
    synced, _, learner = pair()
    list(synced.generate(make_prompts(1), k=2, seed=0))
    with pytest.raises(StageError, match="stale: norm; sent again, they differ by 0 and 0 are stale"):
        synced.load_weights((pair for pair in learner.weights() if pair[0] != "norm"), version=1)


def test_a_difference_within_the_tolerance_is_rounding():
    synced, engine, learner = pair()
    list(synced.generate(make_prompts(1), k=2, seed=0))
    synced.load_weights(((name, value + 0.004) for name, value in learner.weights()), version=1)
    assert engine.scored == 1
