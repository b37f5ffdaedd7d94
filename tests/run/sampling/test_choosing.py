import math
from collections.abc import Sequence

import pytest
import torch

from dqo.run.sampling.choosing import Pick, choose

CORNERS_KD = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.8, 0.6, 0.0]])
TEXTS = ("Paris", "Paris", "Lima", "Oslo", "Paris, France")


def chosen(size, *, rewards=(1.0,) * 5, candidates: Sequence[int] = range(5), alpha=1.0, pick: Pick = "map", seed=0):
    return choose(
        TEXTS, torch.tensor(rewards), CORNERS_KD, list(candidates), size, alpha=alpha, pick=pick, seed=seed
    )  # fmt: skip


def test_the_greedy_choice_takes_the_best_and_then_what_differs_from_it():
    assert chosen(3) == (0, 2, 3)
    assert chosen(2, rewards=(0.0, 0.0, 0.0, 0.0, 1.0)) == (4, 3)


def test_alpha_weighs_difference_against_reward():
    """An answer that is much like the first, but good, against one that is unlike it and bad: volumes .36 and
    exp(-1 / alpha)."""
    rewards = (1.0, 1.0, 0.0, 0.0, 1.0)
    assert chosen(2, rewards=rewards, alpha=0.5) == (0, 4)  # exp(-2) = .14
    assert chosen(2, rewards=rewards, alpha=2.0) == (0, 2)  # exp(-.5) = .61
    assert math.exp(-1 / 0.97) < 0.36 < math.exp(-1 / 0.99)
    assert chosen(2, rewards=rewards, alpha=0.97) == (0, 4) and chosen(2, rewards=rewards, alpha=0.99) == (0, 2)


def test_large_rewards_do_not_overflow():
    assert chosen(3, rewards=(5e4, 5e4, 5e4, 5e4, 5e4)) == (0, 2, 3)


@pytest.mark.parametrize("pick", ["map", "sample"])
def test_fewer_are_chosen_where_fewer_differ(pick):
    assert sorted(chosen(4, candidates=[0, 1, 2], pick=pick)) == [0, 2], "the same text once"
    assert len(chosen(4, candidates=[0, 2, 4], pick=pick)) == 2, "three texts in a plane"
    assert chosen(3, candidates=[], pick=pick) == ()


def test_a_drawn_set_follows_its_seed_and_its_volume():
    """.36 for Paris and Paris, France, .64 for Lima and Paris, France, 1 for the four other pairs."""
    drawn = [frozenset(chosen(2, pick="sample", seed=seed)) for seed in range(100)]
    assert drawn[:9] == [frozenset(chosen(2, pick="sample", seed=seed)) for seed in range(9)]
    counts = {each: drawn.count(each) for each in set(drawn)}
    assert len(counts) == 6 and counts[frozenset((0, 4))] < counts[frozenset((0, 2))]
