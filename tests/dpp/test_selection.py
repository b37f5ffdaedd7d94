import itertools
import math
from fractions import Fraction

import pytest
import torch

from dqo.dpp import RankError, greedy_map, kernel_matrix, sample_k_dpp
from dqo.dpp.selection import log_elementary_sums
from tests.dpp.definitions import chi_square_p, eye, unit_vectors


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


@pytest.mark.parametrize("select", [greedy_map, sample_k_dpp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_size_above_the_rank_is_refused_with_advice(select, dtype):
    kernel_KK = kernel_matrix(unit_vectors(6, 3, dtype=dtype))
    assert len(set(select(kernel_KK, 3).tolist())) == 3
    with pytest.raises(RankError, match=r"size=4 is above the rank of a kernel; add torch.eye\(6\)") as caught:
        select(kernel_KK, 4)
    assert caught.value.rank == 3
    assert sorted(select(kernel_KK + eye(6), 6).tolist()) == list(range(6))


@pytest.mark.parametrize("select", [greedy_map, sample_k_dpp])
@pytest.mark.parametrize("size", [-1, 4])
def test_impossible_sizes_are_refused(select, size):
    with pytest.raises(ValueError, match=f"size={size}: 0 to 3 can be picked of 3 items"):
        select(torch.eye(3), size)


@pytest.mark.parametrize("select", [greedy_map, sample_k_dpp])
def test_of_identical_items_one_is_picked(select):
    with pytest.raises(RankError) as caught:
        select(torch.ones(4, 4), 2)
    assert caught.value.rank == 1 and len(select(torch.ones(4, 4), 1)) == 1


def drawn_sets(kernel_KK, size, *, draws, seed=0):
    """How often each set of ``size`` items was drawn, and its probability: det L_S over the sum of all."""
    items = range(len(kernel_KK))
    sets = list(itertools.combinations(items, size))
    generator = torch.Generator().manual_seed(seed)
    picks = sample_k_dpp(kernel_KK.expand(draws, *kernel_KK.shape), size, generator=generator)
    assert picks.shape == (draws, size)
    drawn = [tuple(sorted(row)) for row in picks.tolist()]
    volumes = torch.stack([torch.linalg.det(kernel_KK[list(each)][:, list(each)]) for each in sets])
    return [drawn.count(each) for each in sets], (volumes / volumes.sum()).tolist()


@pytest.mark.parametrize(("size", "rank"), [(1, 6), (2, 6), (3, 6), (3, 4), (4, 4), (5, 6)])
def test_sets_are_drawn_with_the_probability_of_their_volume(size, rank):
    """Every set is enumerated. A rank below the number of items leaves sets of probability 0."""
    lengths_K = torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    kernel_KK = kernel_matrix(unit_vectors(6, rank), quality_PK=lengths_K)
    counts, shares = drawn_sets(kernel_KK, size, draws=20_000)
    assert chi_square_p(counts, shares) > 0.001


def test_each_order_of_a_drawn_set_is_equally_likely_where_its_items_are():
    """A permutation of the items changes nothing: the first item drawn is uniform for a circulant kernel."""
    angles_K = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    kernel_KK = kernel_matrix(torch.stack([angles_K.cos(), angles_K.sin(), torch.ones(5)], dim=-1))
    picks = sample_k_dpp(kernel_KK.expand(10_000, 5, 5), 3, generator=torch.Generator().manual_seed(0))
    for column in range(3):
        assert chi_square_p(torch.bincount(picks[:, column], minlength=5).tolist(), [1 / 5] * 5) > 0.001


def test_a_seed_repeats_a_draw_and_another_one_does_not():
    kernel_KK = kernel_matrix(unit_vectors(40, 30))
    first, again, other = (
        sample_k_dpp(kernel_KK, 10, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_leading_dimensions_and_sizes_0_and_k():
    assert sample_k_dpp(kernel_matrix(unit_vectors(2, 3, 6, 8)), 4).shape == (2, 3, 4)
    kernel_KK = kernel_matrix(unit_vectors(5, 8))
    assert sorted(sample_k_dpp(kernel_KK, 5).tolist()) == [0, 1, 2, 3, 4]
    assert sample_k_dpp(kernel_KK, 0).tolist() == sample_k_dpp(kernel_KK[:0, :0], 0).tolist() == []


def test_scales_that_would_over_or_underflow_change_nothing():
    """The volume of 30 items is 1e±3600 here."""
    kernel_KK = kernel_matrix(unit_vectors(60, 50))
    picks = [
        sample_k_dpp(kernel_KK * scale, 30, generator=torch.Generator().manual_seed(3)).tolist()
        for scale in (1.0, 1e-120, 1e120)
    ]
    assert picks[0] == picks[1] == picks[2]


def test_elementary_symmetric_polynomials_equal_exact_fractions():
    """Of eigenvalues over 300 orders of magnitude, one of them 0."""
    values = [Fraction(10) ** -(10 * n) for n in range(30)] + [Fraction(0), Fraction(7, 3)]
    exact = [Fraction(1), *[Fraction(0)] * 8]
    for value in values:
        exact = [one + value * (exact[size - 1] if size else 0) for size, one in enumerate(exact)]
    logs_K = torch.tensor([-math.inf if not value else _log(value) for value in values], dtype=torch.float64)
    found = log_elementary_sums(logs_K, 8)
    assert found[:, -1].tolist() == pytest.approx([_log(value) for value in exact], rel=1e-12, abs=1e-12)
    assert found[3, 2] == -math.inf


def _log(value: Fraction) -> float:
    return math.log(value.numerator) - math.log(value.denominator)
