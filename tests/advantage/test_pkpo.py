import itertools
import math

import pytest
import torch

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.groups.subsets import Subsets
from dqo.advantage.pkpo import Baseline, Pkpo
from dqo.records import Estimates
from tests.advantage.enumeration import Items
from tests.advantage.experiences import experience_of, per_completion


def pkpo(n=3, k=6, baseline=Baseline.none):
    return Pkpo(subsets=Subsets(n=n, k=k), baseline=baseline, credit=CreditKeys())


def advantages(advantage, experience, alpha=0.0):
    return per_completion(experience, advantage(experience, Estimates(), alpha=alpha).advantages_BT)


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize(
    "rewards", [(0.5, 2.0, 0.25, 0.0, -1.0, 0.75), (1, 1, 0, 0, 0, 0), (0, 1, 0, 0, 0, 0), (2, 2, 1, 1, 0, 0)]
)
def test_it_is_what_a_completion_adds_to_the_best_of_all_subsets(n, rewards):
    expected = []
    for i in range(6):
        subsets = [s for s in itertools.combinations(range(6), n) if i in s]
        gains = [max(rewards[j] for j in s) - max(rewards[j] for j in s if j != i) for s in subsets]
        expected.append(sum(gains) / len(gains))
    found = advantages(pkpo(n), experience_of([rewards], [[0.0] * 6]))
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("correct", range(7))
@pytest.mark.parametrize("n", [2, 4, 6])
def test_for_binary_rewards_it_is_the_papers_closed_form_and_can_be_centred(correct, n):
    experience = experience_of([[1.0] * correct + [0.0] * (6 - correct)], [[0.0] * 6])
    right = math.comb(6 - correct, n - 1) / math.comb(5, n - 1)
    expected = torch.tensor([[right] * correct + [0.0] * (6 - correct)])
    torch.testing.assert_close(advantages(pkpo(n), experience), expected)
    others = (expected.sum() - expected) / 5
    torch.testing.assert_close(advantages(pkpo(n, baseline=Baseline.leave_one_out), experience), expected - others)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_expected_gradient_is_that_of_the_best_of_n(n):
    """All groups of 4 of a policy over 4 items: the factor is k / n. With the leave-one-out baseline it is not."""
    policy, k = Items(torch.tensor([1.0, 0.4, 2.5, -1.0]).double()), 4
    exact = policy.gradient(policy.expected(n, lambda items: float(policy.rewards[items].max()))) * k / n
    torch.testing.assert_close(policy.estimated(pkpo(n, k), k), exact, atol=1e-6, rtol=0)
    biased = policy.estimated(pkpo(n, k, Baseline.leave_one_out), k)
    assert (biased / biased.norm() - exact / exact.norm()).abs().max() > 1e-3


def test_masked_completions_are_in_no_subset_and_small_groups_teach_by_their_credit_alone(caplog):
    valid = [[True, True, True, False], [True, True, False, False]]
    experience = experience_of([[1.0, 0, 0, 9], [1, 0, 0, 0]], [[0.0] * 4, [0.2, 0.4, 0, 0]], valid)
    found = advantages(pkpo(3, 4), experience, alpha=1.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0, 0], [-0.1, 0.1, 0, 0]]))
    assert "1 of 2 groups have fewer than 3 valid completions" in caplog.text


def test_asking_for_signal_warns_of_nothing(caplog):
    """``redraws`` asks for one group at a time: the warning, logged once, would say "1 of 1 groups"."""
    experience = experience_of([[1.0, 0, 0]], [[0.0] * 3], [[True, True, False]])
    assert not pkpo(3, 3).has_signal(experience, alpha=0.0)
    assert not caplog.records


def test_has_signal_is_exact():
    assert not pkpo(2, 4).has_signal(experience_of([[1e8 / 3] * 4], [[0.2] * 4]), alpha=1.0)
    assert not pkpo(3, 4).has_signal(
        experience_of([[1, 1, 0, 1]], [[0.2] * 4]), alpha=1.0
    )  # no subset needs one of them
    assert pkpo(2, 4).has_signal(experience_of([[1, 0, 0, 1]], [[0.2] * 4]), alpha=0.0)
    assert pkpo(2, 4).has_signal(experience_of([[1, 1, 1, 1]], [[0.2, 0.2, 0.2, 0.4]]), alpha=1.0)
