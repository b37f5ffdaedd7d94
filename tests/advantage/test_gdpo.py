import logging
from dataclasses import replace

import pytest
import torch

from dqo.advantage.gdpo import Gdpo
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion

NAN = float("nan")


class Plain:
    """A reward that is no sum."""

    def score(self, rollouts):
        raise NotImplementedError


class Sum(Plain):
    """A weighted sum, as ``reward=weighted`` is."""

    def __init__(self):
        self.part_weights = {"right": 1.0, "short": 0.5}


def given(right, short, credits, valid=None):
    right_PK, short_PK = torch.tensor(right), torch.tensor(short)
    total_PK = right_PK.nan_to_num() + 0.5 * short_PK.nan_to_num()
    experience = experience_of(total_PK.tolist(), credits, valid)
    parts = {"right": right_PK, "short": short_PK, "short/inner": torch.full_like(right_PK, 1e9)}
    return replace(experience, rewards=replace(experience.rewards, parts=parts))


def advantages(experience, reward=None, alpha=1.0):
    return per_completion(experience, Gdpo(reward or Sum())(experience, Estimates(), alpha=alpha).advantages_BT)


RIGHT = [[1.0, 0, 0, 1], [0.0, 0, 0, 1]]
SHORT = [[10.0, 30, 20, NAN], [5.0, 5, 5, 5]]
CREDITS = [[0.1, 0.2, 0.3, 0.4], [0.2, 0.2, 0.2, 0.5]]


def norm(values):
    return (values - values.mean()) / (values.std() + 1e-4)


def test_every_part_is_normalized_in_its_group_weighted_summed_and_whitened():
    """By the paper's formula with loops: TRL's ``multi_objective_aggregation=normalize_then_sum``."""
    sums = []
    for right, short, credits in zip(RIGHT, SHORT, CREDITS, strict=True):
        short_there = norm(torch.tensor([x for x in short if x == x]))
        short_part = torch.cat([short_there, torch.zeros(4 - len(short_there))])
        sums.append(norm(torch.tensor(right)) + 0.5 * short_part + 2.0 * norm(torch.tensor(credits)))
    whole = torch.stack(sums)
    expected = (whole - whole.mean()) / (whole.std() + 1e-4)
    torch.testing.assert_close(advantages(given(RIGHT, SHORT, CREDITS), alpha=2.0), expected, atol=1e-5, rtol=1e-5)


def test_a_reward_without_weights_is_one_part():
    experience = given(RIGHT, SHORT, CREDITS)
    one = torch.stack([norm(row) for row in experience.rewards.total_PK])
    torch.testing.assert_close(advantages(experience, Plain(), alpha=0.0), one / (one.std() + 1e-4), atol=1e-5, rtol=0)


def test_masked_and_lone_completions_get_0_and_are_left_out():
    valid = [[True, True, True, False], [True, False, False, False]]
    masked = given([[1.0, 0, 0, NAN], [0, 0, 0, 1]], [[1.0, 3, 2, NAN], [5, 5, 5, 5]], CREDITS, valid)
    smaller = given([[1.0, 0, 0]], [[1.0, 3, 2]], [CREDITS[0][:3]])
    found = advantages(masked)
    alone = advantages(smaller)
    assert found[0, 3] == 0
    assert found[1].eq(0).all()
    torch.testing.assert_close(found[0, :3] / found[0, 0], alone[0] / alone[0, 0])  # the step's std has one value more


def test_tied_groups_are_exactly_0():
    experience = given([[1.0, 1, 1]], [[NAN, NAN, NAN]], [[0.3, 0.3 + 1e-8, 0.3]])
    assert advantages(experience).eq(0).all()
    assert not Gdpo(Sum()).has_signal(experience, alpha=1.0)


def test_has_signal_looks_at_every_part():
    cancelling = given([[1.0, 0, 0.5]], [[0.0, 2, 1]], [[0.2] * 3])  # totals tie
    assert cancelling.rewards.total_PK.unique().numel() == 1
    assert Gdpo(Sum()).has_signal(cancelling, alpha=0.0)
    assert not Gdpo(Plain()).has_signal(cancelling, alpha=0.0)
    credited = given([[1.0, 1, 1]], [[0.0, 0, 0]], [[0.2, 0.3, 0.2]])
    assert Gdpo(Sum()).has_signal(credited, alpha=1.0)
    assert not Gdpo(Sum()).has_signal(credited, alpha=0.0)


@pytest.mark.parametrize(("alpha", "warnings"), [(1.0, 1), (0.0, 0)])
def test_a_tiny_standard_deviation_of_credits_is_warned_about(caplog, alpha, warnings):
    with caplog.at_level(logging.WARNING, "dqo"):
        advantages(given([[1.0, 0, 0]], [[0.0, 0, 0]], [[0.300, 0.303, 0.300]]), alpha=alpha)
    assert len(caplog.records) == warnings
    assert not warnings or "advantage=gdpo turns" in caplog.text
