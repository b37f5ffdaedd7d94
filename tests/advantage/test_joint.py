import logging
from dataclasses import replace

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion


def advantages(experience, scale: ScaleRewards, alpha: float = 1.0):
    targets = Joint(scale_rewards=scale)(experience, Estimates(), alpha=alpha)
    return per_completion(experience, targets.advantages_BT)


def test_the_mean_of_reward_and_weighted_credit_is_subtracted():
    experience = experience_of([[1, 0, 1], [0, 0, 0]], [[0.3, 0.3, 0.6], [0.1, 0.4, 0.4]])
    expected = torch.tensor([[1.6 - 1.4667, 0.6 - 1.4667, 2.2 - 1.4667], [-0.4, 0.2, 0.2]])  # at alpha = 2
    torch.testing.assert_close(advantages(experience, ScaleRewards.none, alpha=2.0), expected, atol=1e-4, rtol=0)


def test_group_scaling_divides_by_the_standard_deviation_of_n_minus_1_and_trls_epsilon():
    experience = experience_of([[3, 1, 2], [0, 0, 6]], [[0, 0, 0], [0, 0, 0]])
    first, second = 1.0, (12**0.5)
    expected = torch.tensor([[1, -1, 0], [-2, -2, 4]]) / (torch.tensor([[first], [second]]) + 1e-4)
    torch.testing.assert_close(advantages(experience, ScaleRewards.group), expected)


def test_batch_scaling_divides_by_the_standard_deviation_over_the_batch():
    experience = experience_of([[3, 1, 2], [0, 0, 6]], [[0, 0, 0], [0, 0, 0]])
    whole = torch.tensor([3.0, 1, 2, 0, 0, 6]).std()
    expected = torch.tensor([[1, -1, 0], [-2, -2, 4]]) / (whole + 1e-4)
    torch.testing.assert_close(advantages(experience, ScaleRewards.batch), expected)


def test_without_credit_advantages_follow_trls_formula(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    rewards_PK = torch.rand(5, 4, generator=generator)
    experience = experience_of(rewards_PK.tolist(), torch.rand(5, 4, generator=generator).tolist())
    expected_PK = (rewards_PK - rewards_PK.mean(1, keepdim=True)) / (rewards_PK.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(advantages(experience, ScaleRewards.group, alpha=0.0), expected_PK)


@pytest.mark.parametrize("scale", ScaleRewards)
def test_a_masked_completion_gets_0_and_is_left_out(scale):
    smaller = experience_of([[3, 1, 2], [0, 0, 6]], [[0.2, 0.3, 0.4], [0.1, 0.1, 0.6]])
    masked = experience_of(
        [[3, 1, 2, 0], [0, 0, 6, 0]],
        [[0.2, 0.3, 0.4, 0], [0.1, 0.1, 0.6, 0]],
        [[True, True, True, False], [True, True, True, False]],
    )
    with_it = advantages(masked, scale)
    torch.testing.assert_close(with_it[:, :3], advantages(smaller, scale))
    assert with_it[:, 3].eq(0).all()


@pytest.mark.parametrize("scale", ScaleRewards)
def test_the_only_valid_completion_of_a_group_has_advantage_0(scale):
    experience = experience_of([[5, 0], [0, 0]], [[0.7, 0], [0, 0]], [[True, False], [False, False]])
    assert advantages(experience, scale).eq(0).all()


def test_in_a_group_of_two_equal_credits_leave_no_signal():
    experience = experience_of([[1, 1]], [[0.5, 0.5]])
    assert advantages(experience, ScaleRewards.none).eq(0).all()
    assert not Joint(scale_rewards=ScaleRewards.none).has_signal(experience, alpha=1.0)


def test_has_signal_looks_at_reward_plus_credit():
    joint = Joint(scale_rewards=ScaleRewards.group)
    tied = experience_of([[1, 1, 1]], [[0.3, 0.2, 0.2]])
    assert joint.has_signal(tied, alpha=1.0)
    assert not joint.has_signal(tied, alpha=0.0)
    rounding = replace(tied, credits_PK=torch.tensor([[0.3, 0.3 + 1e-7, 0.3]]))
    assert not joint.has_signal(rounding, alpha=1.0)


def test_a_tiny_standard_deviation_is_warned_about_once(caplog):
    experience = experience_of([[1, 1, 1], [0, 1, 0]], [[0.300, 0.303, 0.300], [0.3, 0.3, 0.3]])
    joint = Joint(scale_rewards=ScaleRewards.group)
    with caplog.at_level(logging.WARNING, "dqo"):
        joint(experience, Estimates(), alpha=1.0)
        joint(experience, Estimates(), alpha=1.0)
    (record,) = caplog.records
    assert "1 of 2 groups" in record.message
    assert "advantage.scale_rewards=none" in record.message


@pytest.mark.parametrize(
    ("scale", "alpha", "spread"),
    [(ScaleRewards.none, 1.0, 0.003), (ScaleRewards.group, 0.0, 0.003), (ScaleRewards.group, 1.0, 0.3)],
)
def test_no_warning_without_division_or_with_a_large_standard_deviation(caplog, scale, alpha, spread):
    experience = experience_of([[1, 1, 1]], [[0.3, 0.3 + spread, 0.3]])
    with caplog.at_level(logging.WARNING, "dqo"):
        Joint(scale_rewards=scale)(experience, Estimates(), alpha=alpha)
    assert not caplog.records
