import itertools
import math

import pytest
import torch

from dqo.advantage.groups.subsets import MOST, Subsets, by_group, means_with_each, members, membership
from dqo.errors import ConfigError


@pytest.mark.parametrize(("count", "n"), [(5, 2), (6, 6), (32, 4)])  # the last is among the largest that are allowed
def test_all_subsets_are_there_once(count, n):
    chosen_Sn = members(count, n)
    assert len(set(map(tuple, chosen_Sn.tolist()))) == len(chosen_Sn) == math.comb(count, n) <= MOST
    assert torch.equal(membership(count, n).nonzero()[:, 1].view(-1, n), chosen_Sn)


def test_means_are_over_the_subsets_that_contain_an_item():
    values = torch.rand(math.comb(6, 3), generator=torch.Generator().manual_seed(0)).double()
    with_each = [
        [v for v, s in zip(values.tolist(), itertools.combinations(range(6), 3), strict=True) if i in s]
        for i in range(6)
    ]
    expected = torch.tensor([sum(each) / len(each) for each in with_each], dtype=torch.float64)
    torch.testing.assert_close(means_with_each(values, 6, 3), expected)


def test_groups_with_too_few_valid_completions_get_0():
    valid_PK = torch.tensor([[True, False, True], [False, True, False]])
    found = by_group(valid_PK, 2, lambda p, valid_N: valid_N.double() + 1)
    assert found.tolist() == [[1, 0, 3], [0, 0, 0]]


@pytest.mark.parametrize(
    ("n", "k", "message"),
    [
        (9, 8, "advantage.n=9: a group has k=8 completions; type advantage.n=4, or k=18"),
        (3, 2, "advantage.n=3: a group has k=2 completions; type k=6"),
        (16, 32, "has 601,080,390 subsets of this size; at most 50,000 are allowed; type advantage.n=4"),
    ],
)
def test_impossible_and_too_many_subsets_are_refused(n, k, message):
    with pytest.raises(ConfigError, match=message):
        Subsets(n=n, k=k)
