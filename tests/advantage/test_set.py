import itertools
import math

import pytest
import torch

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.set import Modes, ProperSubsets, SetAdvantage, SetValue
from dqo.errors import ConfigError, StageError
from dqo.records import Estimates
from tests.advantage.enumeration import MODES, Items
from tests.advantage.experiences import experience_of, per_completion
from tests.helpers.toy_stages import CountingTask

VALUES = [
    (SetValue.max, Modes.correct),
    (SetValue.minority, Modes.correct),
    *((SetValue.mean_distinct, m) for m in Modes),
]
TEXTS = ("w1", "w2", "w1", "w3", "w2", "w4")  # a text is its mode


def set_advantage(f=SetValue.max, *, n=3, k=6, modes=Modes.correct, divide_by_std=False):
    subsets = ProperSubsets(n=n, k=k)
    return SetAdvantage(
        CountingTask(), f=f, modes=modes, subsets=subsets, divide_by_std=divide_by_std, credit=CreditKeys()
    )


def advantages(advantage, experience, alpha=0.0):
    return per_completion(experience, advantage(experience, Estimates(), alpha=alpha).advantages_BT)


def value(f, modes, rewards, texts):
    """f(S) by its definition; correct is what has a positive reward."""
    counted = [text for reward, text in zip(rewards, texts, strict=True) if reward > 0 or modes == Modes.all]
    if f == SetValue.max:
        return max(rewards)
    if f == SetValue.minority:
        most = max((counted.count(text) for text in counted), default=0)
        return (len(counted) - most) / len(rewards)
    return sum(rewards) / len(rewards) * len(set(counted)) / len(rewards)


def brute_force(f, modes, rewards, n, texts=TEXTS):
    places = range(len(rewards))
    subsets = list(itertools.combinations(places, n))
    values = [value(f, modes, [rewards[i] for i in s], [texts[i] for i in s]) for s in subsets]
    mean = sum(values) / len(values)
    with_each = [[v for v, s in zip(values, subsets, strict=True) if i in s] for i in places]
    return [sum(each) / len(each) - mean for each in with_each]


@pytest.mark.parametrize(("f", "modes"), VALUES)
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("rewards", [(1, 1, 0, 1, 1, 0), (0.5, 2.0, 0.25, 0.0, 1.0, 0.75), (0, 1, 0, 0, 0, 0)])
def test_advantages_are_the_difference_of_means_over_all_subsets(f, modes, n, rewards):
    experience = experience_of([rewards], [[0.0] * 6], texts=TEXTS)
    found = advantages(set_advantage(f, n=n, modes=modes), experience)
    torch.testing.assert_close(found, torch.tensor([brute_force(f, modes, rewards, n)]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("correct", range(7))
def test_divided_by_the_standard_deviation_the_largest_of_n_is_pass_at_k_training(correct):
    """arXiv 2508.10751: ρ = 1 - C(N-c, n) / C(N, n), σ² = ρ (1 - ρ); A₊ = (1 - ρ) / σ, A₋ = (1 - ρ - C(N-c-1, n-1) /
    C(N-1, n-1)) / σ."""
    total, n = 6, 3
    experience = experience_of([[1.0] * correct + [0.0] * (total - correct)], [[0.0] * total])
    found = advantages(set_advantage(n=n, divide_by_std=True), experience)
    rho = 1 - math.comb(total - correct, n) / math.comb(total, n)
    std = math.sqrt(rho * (1 - rho))
    if std == 0:
        assert found.eq(0).all()
        return
    right = (1 - rho) / std
    wrong = (1 - rho - math.comb(total - correct - 1, n - 1) / math.comb(total - 1, n - 1)) / std
    expected = torch.tensor([[right] * correct + [wrong] * (total - correct)])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("f", "modes"), VALUES)
@pytest.mark.parametrize("n", [2, 3])
def test_the_expected_gradient_is_that_of_the_expected_value_of_n_completions(f, modes, n):
    """All groups of 4 of a policy over 4 items: the factor is (k - n) / n."""
    policy, k = Items(), 4

    def of(items):
        return value(f, modes, [float(policy.rewards[i]) for i in items], [MODES[i] for i in items])

    exact = policy.gradient(policy.expected(n, of)) * (k - n) / n
    torch.testing.assert_close(policy.estimated(set_advantage(f, n=n, k=k, modes=modes), k), exact, atol=1e-6, rtol=0)


def test_the_credits_deviation_is_added():
    experience = experience_of([[1.0, 0, 0, 0]], [[0.1, 0.2, 0.3, 0.6]])
    advantage = set_advantage(n=2, k=4)
    added = advantages(advantage, experience, alpha=2.0) - advantages(advantage, experience, alpha=0.0)
    torch.testing.assert_close(added, 2 * torch.tensor([[-0.2, -0.1, 0.0, 0.3]]))


def test_masked_completions_are_in_no_subset_and_small_groups_teach_by_their_credit_alone(caplog):
    rewards, credits = [[1.0, 0, 0, 0], [1, 0, 0, 0]], [[0.0] * 4, [0.2, 0.4, 0, 0]]
    valid = [[True, True, True, False], [True, True, False, False]]
    advantage = set_advantage(n=2, k=4)
    found = advantages(advantage, experience_of(rewards, credits, valid), alpha=1.0)
    expected = brute_force(SetValue.max, Modes.correct, (1, 0, 0), 2)
    torch.testing.assert_close(found, torch.tensor([[*expected, 0.0], [-0.1, 0.1, 0.0, 0.0]]))
    advantages(advantage, experience_of(rewards, credits, valid))
    (record,) = caplog.records
    assert "1 of 2 groups have fewer than 3 valid completions" in record.message


def test_has_signal_looks_at_modes_where_f_does():
    same = experience_of([[1.0, 1, 1, 1]], [[0.3] * 4], texts=["w1"] * 4)
    other = experience_of([[1.0, 1, 1, 1]], [[0.3] * 4], texts=["w1", "w1", "w1", "w2"])
    for f, signal in ((SetValue.max, False), (SetValue.minority, True), (SetValue.mean_distinct, True)):
        advantage = set_advantage(f, n=2, k=4)
        assert not advantage.has_signal(same, alpha=1.0)
        assert advantages(advantage, same, alpha=1.0).eq(0).all()
        assert advantage.has_signal(other, alpha=0.0) == signal
    credited = experience_of([[1.0, 1, 1, 1]], [[0.3, 0.2, 0.2, 0.2]])
    assert set_advantage(n=2, k=4).has_signal(credited, alpha=1.0)
    assert not set_advantage(n=2, k=4).has_signal(credited, alpha=0.0)


def test_rounding_is_no_signal():
    experience = experience_of([[1e8 / 3] * 6], [[0.1] * 6])
    for divide in (False, True):
        assert not set_advantage(n=3, divide_by_std=divide).has_signal(experience, alpha=1.0)


def test_what_cannot_be_judged_is_refused():
    negative = experience_of([[1.0, -0.5, 0, 0]], [[0.0] * 4])
    with pytest.raises(
        StageError, match=r"mean_distinct needs rewards of at least 0, and one is -0.5; type advantage.f"
    ):
        advantages(set_advantage(SetValue.mean_distinct, n=2, k=4), negative)
    advantages(set_advantage(n=2, k=4), negative)
    with pytest.raises(ConfigError, match=r"advantage.n=4: the only subset of k=4 .*; type advantage.n=2, or k=8"):
        ProperSubsets(n=4, k=4)
