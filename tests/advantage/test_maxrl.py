import pytest
import torch

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.maxrl import MaxRL
from dqo.errors import StageError
from dqo.records import Estimates
from tests.advantage.enumeration import Items
from tests.advantage.experiences import experience_of, per_completion


def advantages(experience, alpha=0.0):
    return per_completion(experience, MaxRL(credit=CreditKeys())(experience, Estimates(), alpha=alpha).advantages_BT)


def test_the_deviation_is_divided_by_the_groups_mean():
    experience = experience_of([[1, 0, 0, 0], [2, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], [[0.0] * 4] * 4)
    expected = torch.tensor([[3.0, -1, -1, -1], [1, 0, -1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(advantages(experience), expected)


def test_the_credits_deviation_is_added_and_groups_without_a_reward_teach_by_it():
    experience = experience_of([[0, 0, 0], [1, 0, 0]], [[0.1, 0.2, 0.6], [0.3, 0.3, 0.3]])
    torch.testing.assert_close(advantages(experience, alpha=2.0), torch.tensor([[-0.4, -0.2, 0.6], [2, -1, -1]]))
    advantage = MaxRL(credit=CreditKeys())
    tied = experience_of([[1, 1, 1]], [[0.1, 0.2, 0.6]])
    assert advantage.has_signal(tied, alpha=1.0)
    assert not advantage.has_signal(tied, alpha=0.0)


def test_masked_and_lone_completions_get_0_and_are_left_out():
    valid = [[True, True, True, False], [True, False, False, False]]
    experience = experience_of([[1, 0, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 0], [0.7, 0, 0, 0]], valid)
    torch.testing.assert_close(advantages(experience, alpha=1.0), torch.tensor([[2.0, -1, -1, 0], [0, 0, 0, 0]]))


def test_a_negative_reward_is_refused_unless_it_is_masked():
    with pytest.raises(
        StageError, match=r"prompts 0\] advantage=maxrl needs rewards of at least 0, and one is -1; type"
    ):
        advantages(experience_of([[1, -1, 0]], [[0.0] * 3]))
    advantages(experience_of([[1, -1, 0]], [[0.0] * 3], [[True, False, True]]))


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_expected_gradient_is_that_of_a_sum_of_pass_at_j(k):
    """Of Σ_{j=1}^{k-1} pass@j / j, for 0/1 rewards, per completion: the paper's truncated log-likelihood."""
    policy = Items()
    chance = policy.logits.softmax(-1) @ policy.rewards
    objective = sum(((1 - (1 - chance) ** j) / j for j in range(1, k)), torch.zeros(()).double())
    estimated = policy.estimated(MaxRL(credit=CreditKeys()), k) / k
    torch.testing.assert_close(estimated, policy.gradient(objective), atol=1e-6, rtol=0)
