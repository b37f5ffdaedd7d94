import pytest
import torch

from dqo.metrics.ties import credit_deviations, group_deviations, score_deviations

ALL = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_rounding_is_no_difference_and_a_difference_is_one_whatever_the_size_of_the_rewards(size):
    rounding = torch.tensor([[size, size, size * (1 + 1.2e-7)]])
    assert group_deviations(rounding, ALL).tolist() == [[0.0] * 3]
    different = torch.tensor([[size, size, size * 1.00001]])
    torch.testing.assert_close(
        group_deviations(different, ALL), different.double() - different.double().mean(), rtol=1e-9, atol=0
    )


def test_neighboring_whole_numbers_up_to_a_million_differ():
    rewards = torch.tensor([[1e6, 1e6 + 1, 1e6]])
    assert group_deviations(rewards, ALL)[0].tolist() == pytest.approx([-1 / 3, 2 / 3, -1 / 3])


def test_the_mean_is_of_the_valid_values_and_a_lone_one_has_no_deviation():
    valid = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    values = torch.tensor([[1.0, 9e9, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert group_deviations(values, valid).tolist() == [[-1.0, 0.0, 1.0], [0.0] * 3, [0.0] * 3]


def test_credits_computed_from_cosines_are_equal_up_to_the_rounding_of_cosines():
    """1 - a·b of equal vectors is 1e-7 in float32, in every one of its digits."""
    assert credit_deviations(torch.tensor([[0.0, 1.2e-7, -0.6e-7]]), ALL).tolist() == [[0.0] * 3]
    assert credit_deviations(torch.tensor([[0.0, 1e-5, 0.0]]), ALL).any()


@pytest.mark.parametrize("alpha", [1.0, 1e4, 1e6])
def test_neither_a_large_reward_nor_a_large_alpha_decides_whether_credits_tie(alpha):
    rewards, credits = torch.full((1, 3), 1e8), torch.tensor([[0.3, 0.3, 0.4]])
    expected = alpha * torch.tensor([[-1 / 30, -1 / 30, 1 / 15]], dtype=torch.float64)
    torch.testing.assert_close(score_deviations(rewards, credits, ALL, alpha), expected, rtol=1e-5, atol=0)
    rounding = torch.tensor([[0.3, 0.3, 0.3000001]])
    assert score_deviations(rewards, rounding, ALL, alpha).tolist() == [[0.0] * 3]
