import itertools

import pytest
import torch

from dqo.dpp import greedy_map, kernel_matrix
from tests.dpp.definitions import eye, unit_vectors


def greedy_by_definition(kernel_KK, size):
    """Indices picked by recomputing det L_S for every candidate in each step."""
    picked = []
    for _ in range(size):
        left = [i for i in range(len(kernel_KK)) if i not in picked]
        picked.append(max(left, key=lambda i: torch.logdet(kernel_KK[[*picked, i]][:, [*picked, i]]).item()))
    return picked


@pytest.mark.parametrize("seed", range(5))
def test_picks_equal_recomputing_every_determinant(seed):
    lengths_K = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    kernel_KK = kernel_matrix(unit_vectors(12, 10, seed=seed), quality_PK=lengths_K)
    assert greedy_map(kernel_KK, 8).tolist() == greedy_by_definition(kernel_KK, 8)


def test_a_batch_gives_the_same_picks_as_its_sets():
    kernel_PKK = kernel_matrix(unit_vectors(2, 3, 6, 8))
    picks = greedy_map(kernel_PKK, 4)
    assert picks.shape == (2, 3, 4)
    for p, q in itertools.product(range(2), range(3)):
        assert torch.equal(picks[p, q], greedy_map(kernel_PKK[p, q], 4))


def test_a_new_direction_is_preferred_to_a_near_duplicate_of_the_longest_vector():
    vectors_KD = torch.tensor([[3.0, 0.0], [3.0, 0.01], [0.0, 1.0]])
    assert greedy_map(vectors_KD @ vectors_KD.mT, 2).tolist() == [1, 2]


def test_sizes_0_and_k():
    kernel_KK = kernel_matrix(unit_vectors(5, 8))
    assert sorted(greedy_map(kernel_KK, 5).tolist()) == [0, 1, 2, 3, 4]
    assert greedy_map(kernel_KK, 0).tolist() == greedy_map(kernel_KK[:0, :0], 0).tolist() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_size_above_the_rank_is_refused_with_advice(dtype):
    kernel_KK = kernel_matrix(unit_vectors(6, 3, dtype=dtype))
    assert len(set(greedy_map(kernel_KK, 3).tolist())) == 3
    with pytest.raises(ValueError, match=r"size=4 is above the rank of a kernel; add torch.eye\(6\)"):
        greedy_map(kernel_KK, 4)
    assert sorted(greedy_map(kernel_KK + eye(6), 6).tolist()) == list(range(6))


@pytest.mark.parametrize("size", [-1, 4])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"size={size}: 0 to 3 can be picked of 3 items"):
        greedy_map(torch.eye(3), size)
