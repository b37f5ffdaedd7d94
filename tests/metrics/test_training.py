import math
from dataclasses import replace

import pytest
import torch

from dqo.metrics.training import describe
from tests.factories import make_rewards
from tests.helpers.steps import make_step


def test_metrics_equal_hand_computed_values():
    metrics = describe(make_step(), alpha=1.0)
    lengths = [2.0, 2.0, 2.0, 4.0]  # "Paris" and the end token; the hostile text has four words and no end token
    expected = {
        "reward": 2.5 / 3,
        "reward_std": torch.tensor([1.0, 1.0, 0.5]).std().item(),
        "frac_reward_zero_std": 1.0,  # the second group has one valid completion
        "frac_score_zero_std": 1.0,
        "correct": 0.5,
        "invalid": 1.0,
        "rewards/check/mean": 2.5 / 3,
        "rewards/style/mean": 0.3,
        "completions/mean_length": sum(lengths) / 4,
        "completions/min_length": 2.0,
        "completions/max_length": 4.0,
        "completions/clipped_ratio": 0.25,
        "completions/distinct": 1.0,  # of the valid ones
        "completions/empty": 0.0,
        "num_tokens": 10.0,
        "credit": 1.4 / 3,
        "credit_spread": 0.0,
        "reward_spread": 0.0,
        "credit_over_reward": math.sqrt((2 * 0.16 + 0.36) / 2.25),
        "credit_wrong_share": 0.6 / 1.4,
        "advantage_spread": 1.5,
        "step_time": 5.0,
        "tokens_per_second/rollout": 5.0,
        "tokens_per_second/learner": 10.0,
        "loss": 0.1,
        "entropy": 1.5,
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, rel=1e-6)
    assert metrics["seconds/embed"] == 3.0


def test_empty_completions_are_counted():
    step = make_step()
    experience = step.experience
    silent = replace(experience, rollouts=replace(experience.rollouts, texts=("Paris", "", "\n", "\u200b")))
    assert describe(replace(step, experience=silent), alpha=1.0)["completions/empty"] == 3.0


def test_undefined_metrics_are_nan_and_keys_do_not_depend_on_the_data():
    step = make_step()
    rewards = replace(step.experience.rewards, correct_PK=None, valid_PK=torch.zeros(2, 2, dtype=torch.bool))
    nothing = replace(step, experience=replace(step.experience, rewards=rewards))
    metrics = describe(nothing, alpha=1.0)
    assert metrics.keys() == describe(step, alpha=1.0).keys()
    for key in (
        "reward",
        "reward_std",
        "correct",
        "completions/distinct",
        "rewards/style/mean",
        "credit",
        "credit_spread",
        "reward_spread",
        "spread_ratio",
        "credit_over_reward",
        "credit_wrong_share",
        "credit_length_correlation",
    ):
        assert math.isnan(metrics[key]), key
    assert metrics["frac_reward_zero_std"] == 1.0


def test_a_group_with_equal_rewards_has_signal_if_its_credits_differ():
    step = make_step()
    experience = replace(
        step.experience,
        rewards=make_rewards([[1.0, 1.0], [0.0, 1.0]]),
        credits_PK=torch.tensor([[0.4, 0.5], [0.3, 0.3]]),
    )
    metrics = describe(replace(step, experience=experience), alpha=1.0)
    assert (metrics["frac_reward_zero_std"], metrics["frac_score_zero_std"]) == (0.5, 0.0)
    assert metrics["credit_spread"] == pytest.approx(0.05) and metrics["reward_spread"] == 0.5
    assert describe(replace(step, experience=experience), alpha=2.0)["spread_ratio"] == pytest.approx(0.2)
    assert describe(replace(step, experience=experience), alpha=0.0)["frac_score_zero_std"] == 0.5


def with_credits(credits, **fields):
    """The metrics of a step whose four completions are valid, with 2, 2, 2 and 4 sampled tokens."""
    step = make_step()
    rewards = make_rewards([[1.0, 1.0], [0.0, 1.0]])
    experience = replace(step.experience, rewards=rewards, credits_PK=torch.tensor(credits), **fields)
    return describe(replace(step, experience=experience), alpha=1.0)


@pytest.mark.parametrize(
    ("credits", "expected"),
    [
        ([[0.3, 0.3], [0.1, 0.9]], 1.0),
        ([[0.3, 0.3], [0.9, 0.1]], -1.0),
        ([[0.1, 0.5], [0.3, 0.3]], 0.0),
        ([[0.1, 0.1], [0.3, 0.3]], math.nan),
    ],
)
def test_correlation_of_credit_and_length_is_within_groups(credits, expected):
    found = with_credits(credits)["credit_length_correlation"]
    assert found == pytest.approx(expected, nan_ok=True)


def test_of_a_negative_credit_the_size_counts():
    assert with_credits([[0.0, -0.3], [-0.1, 0.0]])["credit_wrong_share"] == pytest.approx(0.25)


def test_credits_of_tokens_count_by_their_mean():
    sampled_BT = make_step().experience.rollouts.sampled_BT
    metrics = with_credits(
        [[0.0, 0.0], [0.0, 0.0]], token_credits_BT=torch.tensor([[1.0], [0.0], [0.5], [0.5]]) * sampled_BT
    )
    assert (metrics["credit"], metrics["credit_wrong_share"]) == (pytest.approx(0.5), pytest.approx(0.25))
