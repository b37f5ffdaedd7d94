"""Comparison with DPPy (Gautier et al. 2019), an independent numpy implementation of the same mathematics."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

from dqo.dpp import kernel_matrix, leave_one_out_credits, log_det, sample_k_dpp
from dqo.dpp.selection import log_elementary_sums
from tests.dpp.definitions import unit_vectors

finite_dpps = pytest.importorskip("dppy.finite_dpps", reason="DPPy is an optional oracle")
exact_sampling = pytest.importorskip("dppy.exact_sampling")
dppy_utils = pytest.importorskip("dppy.utils")


@pytest.fixture(params=["cosine", "rbf", "quality"])
def kernel_KK(request):
    if request.param == "quality":
        quality_K = 0.5 + 2 * torch.rand(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return kernel_matrix(unit_vectors(7, 5), quality_PK=quality_K)
    return kernel_matrix(unit_vectors(7, 5), kind=request.param)


def test_credit_is_minus_log_of_the_probability_of_not_being_sampled(kernel_KK):
    """A sample of the DPP with likelihood kernel L contains i with probability K_ii, K = L (L + I)^-1."""
    dpp = finite_dpps.FiniteDPP("likelihood", L=kernel_KK.numpy())
    dpp.compute_K()
    left_out_K = 1 - torch.from_numpy(dpp.K).diagonal()
    torch.testing.assert_close(leave_one_out_credits(kernel_KK), -left_out_K.log(), rtol=0, atol=1e-12)


def test_log_det_is_the_sum_over_all_subsets(kernel_KK):
    """det(L + I) = Σ_S det L_S, the sum of the elementary symmetric polynomials of L's eigenvalues."""
    eigenvalues_K = torch.linalg.eigvalsh(kernel_KK).clamp(min=0).numpy()
    polynomials = exact_sampling.elementary_symmetric_polynomials(eigenvalues_K, size=7)
    assert log_det(kernel_KK).item() == pytest.approx(math.log(polynomials[:, -1].sum()), abs=1e-12)


def test_the_optimum_over_groups_of_k_is_a_k_dpp(kernel_KK):
    """Σ det L over all ordered groups of 3 is 3! e_3(λ): repeats add 0, and DPPy's k-DPP has that normalizer."""
    groups_GK = torch.cartesian_prod(*[torch.arange(7)] * 3)
    total = torch.linalg.det(kernel_KK[groups_GK[:, :, None], groups_GK[:, None, :]]).sum().item()
    eigenvalues_K = torch.linalg.eigvalsh(kernel_KK).clamp(min=0).numpy()
    polynomials = exact_sampling.elementary_symmetric_polynomials(eigenvalues_K, size=3)
    assert total == pytest.approx(math.factorial(3) * polynomials[3, -1], rel=1e-10)


def test_elementary_symmetric_polynomials_equal_dppys(kernel_KK):
    eigenvalues_K = torch.linalg.eigvalsh(kernel_KK).clamp(min=0)
    expected = exact_sampling.elementary_symmetric_polynomials(eigenvalues_K.numpy(), size=4)
    torch.testing.assert_close(log_elementary_sums(eigenvalues_K.log(), 4).exp(), torch.from_numpy(expected))


def test_k_dpp_samples_are_distributed_as_dppys(kernel_KK):
    """Two samples of all sets of three, compared by a chi-square test of homogeneity."""
    dpp = finite_dpps.FiniteDPP("likelihood", L=kernel_KK.numpy())
    state = np.random.RandomState(0)
    theirs = Counter(tuple(sorted(map(int, dpp.sample_exact_k_dpp(3, random_state=state)))) for _ in range(2000))
    picks = sample_k_dpp(kernel_KK.expand(20_000, 7, 7), 3, generator=torch.Generator().manual_seed(0))
    ours = Counter(tuple(sorted(row)) for row in picks.tolist())
    frequent = [each for each in itertools.combinations(range(7), 3) if theirs[each] >= 5]
    rest = [sum(counts.values()) - sum(counts[each] for each in frequent) for counts in (theirs, ours)]
    table = [[*(counts[each] for each in frequent), more] for counts, more in zip((theirs, ours), rest, strict=True)]
    result: Any = chi2_contingency(np.array(table) + 1)  # 1: no column is 0
    assert result.pvalue > 0.001


def test_polynomial_and_linear_kernels_equal_dppys():
    vectors_KD = unit_vectors(6, 4)
    linear_KK = torch.from_numpy(dppy_utils.example_eval_L_linear(vectors_KD.numpy()))
    torch.testing.assert_close(kernel_matrix(vectors_KD), linear_KK)
    cubed_KK = torch.from_numpy(dppy_utils.example_eval_L_polynomial(vectors_KD.numpy(), p=3))
    torch.testing.assert_close(kernel_matrix(vectors_KD, kind="polynomial", degree=3, offset=0.0), cubed_KK)
