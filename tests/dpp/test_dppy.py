"""Comparison with DPPy (Gautier et al. 2019), an independent numpy implementation of the same mathematics."""

import math

import pytest
import torch

from dqo.dpp import kernel_matrix, leave_one_out_credits, log_det
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


def test_polynomial_and_linear_kernels_equal_dppys():
    vectors_KD = unit_vectors(6, 4)
    linear_KK = torch.from_numpy(dppy_utils.example_eval_L_linear(vectors_KD.numpy()))
    torch.testing.assert_close(kernel_matrix(vectors_KD), linear_KK)
    cubed_KK = torch.from_numpy(dppy_utils.example_eval_L_polynomial(vectors_KD.numpy(), p=3))
    torch.testing.assert_close(kernel_matrix(vectors_KD, kind="polynomial", degree=3, offset=0.0), cubed_KK)
