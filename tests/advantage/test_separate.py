import logging

import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.separate import Separate
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion


def advantages(experience, scale: ScaleRewards, alpha: float = 1.0):
    targets = Separate(scale_rewards=scale)(experience, Estimates(), alpha=alpha)
    return per_completion(experience, targets.advantages_BT)


def test_each_part_is_divided_by_its_own_standard_deviation():
    experience = experience_of([[10, 0, 20]], [[0.1, 0.2, 0.3]])
    expected = torch.tensor([[0, -10, 10]]) / (10 + 1e-4) + 2 * torch.tensor([[-0.1, 0, 0.1]]) / (0.1 + 1e-4)
    torch.testing.assert_close(advantages(experience, ScaleRewards.group, alpha=2.0), expected)


def test_batch_scaling_has_one_divisor_for_each_part():
    rewards, credits = [[10.0, 0, 20], [1, 1, 1]], [[0.1, 0.2, 0.3], [0.4, 0.4, 0.1]]
    whole_r, whole_c = torch.tensor(rewards).std(), torch.tensor(credits).std()
    expected = torch.tensor([[0.0, -10, 10], [0, 0, 0]]) / (whole_r + 1e-4)
    expected += torch.tensor([[-0.1, 0, 0.1], [0.1, 0.1, -0.2]]) / (whole_c + 1e-4)
    torch.testing.assert_close(advantages(experience_of(rewards, credits), ScaleRewards.batch), expected)


def test_without_division_advantages_equal_joint():
    experience = experience_of([[1, 0, 1]], [[0.3, 0.3, 0.6]])
    torch.testing.assert_close(
        advantages(experience, ScaleRewards.none), torch.tensor([[0.2333, -0.7667, 0.5333]]), atol=1e-4, rtol=0
    )


def test_the_scale_of_the_reward_does_not_matter():
    small = experience_of([[1, 0, 1]], [[0.3, 0.2, 0.6]])
    large = experience_of([[1000, 0, 1000]], [[0.3, 0.2, 0.6]])
    torch.testing.assert_close(
        advantages(small, ScaleRewards.group), advantages(large, ScaleRewards.group), atol=1e-3, rtol=0
    )


def test_masked_and_lone_completions_get_0_and_are_left_out():
    valid = [[True, True, True, False], [True, False, False, False]]
    masked = experience_of([[3, 1, 2, 0], [1, 0, 0, 0]], [[0.2, 0.3, 0.4, 0], [0.7, 0, 0, 0]], valid)
    smaller = experience_of([[3, 1, 2]], [[0.2, 0.3, 0.4]])
    result = advantages(masked, ScaleRewards.group)
    torch.testing.assert_close(result[:1, :3], advantages(smaller, ScaleRewards.group))
    assert result[0, 3] == 0
    assert result[1].eq(0).all()


def test_has_signal_looks_at_reward_and_credit_separately():
    separate = Separate(scale_rewards=ScaleRewards.group)
    cancelling = experience_of([[0.3, 0.2]], [[0.2, 0.3]])  # r + c is equal
    assert separate.has_signal(cancelling, alpha=1.0)
    tied = experience_of([[1, 1]], [[0.2, 0.3]])
    assert separate.has_signal(tied, alpha=1.0)
    assert not separate.has_signal(tied, alpha=0.0)


def test_a_tiny_standard_deviation_of_credits_is_warned_about(caplog):
    experience = experience_of([[1, 0, 1]], [[0.300, 0.303, 0.300]])
    with caplog.at_level(logging.WARNING, "dqo"):
        advantages(experience, ScaleRewards.group)
        advantages(experience, ScaleRewards.none)
        advantages(experience, ScaleRewards.group, alpha=0.0)
    assert len(caplog.records) == 1
