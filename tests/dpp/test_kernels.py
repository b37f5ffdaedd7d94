import math

import pytest
import torch

from dqo.dpp import Kernel, kernel_matrix
from tests.dpp.definitions import unit_vectors

VECTORS_PKD = 3 * torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


def entry(a, b, kind):
    """Kernel entry of vectors a and b, by its formula."""
    if kind == "cosine":
        return torch.dot(a, b) / (a.norm() * b.norm())
    if kind == "rbf":
        return torch.exp(-((a - b).norm() ** 2) / (2 * 0.7**2))
    return (torch.dot(a, b) + 0.5) ** 3


@pytest.mark.parametrize("kind", ["cosine", "rbf", "polynomial"])
def test_each_entry_equals_its_formula(kind):
    kernel_PKK = kernel_matrix(VECTORS_PKD, kind=kind, sigma=0.7, degree=3, offset=0.5)
    expected_PKK = torch.stack(
        [torch.stack([torch.stack([entry(a, b, kind) for b in group]) for a in group]) for group in VECTORS_PKD]
    )
    torch.testing.assert_close(kernel_PKK, expected_PKK, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", Kernel)
def test_kernels_are_positive_semi_definite(kind):
    assert torch.linalg.eigvalsh(kernel_matrix(VECTORS_PKD, kind=kind)).min() > -1e-9


@pytest.mark.parametrize("kind", Kernel)
def test_unit_vectors_have_a_unit_diagonal(kind):
    kernel_PKK = kernel_matrix(unit_vectors(3, 6, 10), kind=kind)
    torch.testing.assert_close(kernel_PKK.diagonal(dim1=-2, dim2=-1), torch.ones(3, 6, dtype=torch.float64))


def test_quality_scales_the_lengths_of_the_vectors():
    quality_PK = torch.rand(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    directions_PKD = torch.nn.functional.normalize(VECTORS_PKD, dim=-1)
    psi_PKD = quality_PK[..., None] * directions_PKD
    torch.testing.assert_close(kernel_matrix(VECTORS_PKD, quality_PK=quality_PK), psi_PKD @ psi_PKD.mT)


def test_embeddings_may_have_any_leading_dimensions():
    vectors = unit_vectors(2, 3, 4, 5)
    kernel = kernel_matrix(vectors)
    assert kernel.shape == (2, 3, 4, 4)
    torch.testing.assert_close(kernel_matrix(vectors[1, 2]), kernel[1, 2])


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_computes_in_float32_or_the_inputs_float64(given, computed):
    assert kernel_matrix(torch.ones(2, 3, dtype=given)).dtype == computed


def test_rbf_of_near_duplicates_is_at_most_1_in_float32():
    vectors_KD = unit_vectors(1, 384) + 1e-5 * unit_vectors(50, 384, seed=1)
    kernel_KK = kernel_matrix(vectors_KD.float(), kind="rbf", sigma=0.4)
    assert kernel_KK.max() <= 1 and kernel_KK.min() > 1 - 1e-5


def test_kernels_are_differentiable():
    def kernels(vectors):
        return tuple(kernel_matrix(vectors, kind=kind) for kind in Kernel)

    assert torch.autograd.gradcheck(kernels, VECTORS_PKD[:1, :3].clone().requires_grad_())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "cosin"}, "kind=cosin: one of cosine, rbf, polynomial is needed"),
        ({"kind": "rbf", "sigma": 0.0}, "sigma=0.0: a positive number"),
        ({"kind": "rbf", "sigma": math.nan}, "sigma=nan: a positive number"),
        ({"kind": "polynomial", "degree": 0}, "degree=0: a whole number of 1 or more"),
        ({"kind": "polynomial", "offset": -0.5}, "offset=-0.5: 0 or more"),
        ({"quality_PK": torch.ones(4, 5, dtype=torch.complex64)}, r"quality is torch\.complex64: real numbers"),
        ({"quality_PK": torch.ones(3)}, r"quality of shape \(3,\) for items of shape \(4, 5\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_matrix(VECTORS_PKD, **arguments)


def test_a_single_vector_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\): \(…, items, width\)"):
        kernel_matrix(VECTORS_PKD[0, 0])


def test_complex_embeddings_and_embeddings_without_a_width_are_refused():
    with pytest.raises(ValueError, match=r"embeddings is torch\.complex64: real numbers"):
        kernel_matrix(torch.ones(2, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"shape \(2, 0\)"):
        kernel_matrix(torch.ones(2, 0))
    assert kernel_matrix(torch.ones(3, 0, 4)).shape == (3, 0, 0)


def test_whole_numbers_and_very_short_or_long_vectors_have_a_cosine():
    kernel_KK = kernel_matrix(torch.tensor([[1, 0], [1, 1]]))
    torch.testing.assert_close(kernel_KK, torch.tensor([[1.0, 0.5**0.5], [0.5**0.5, 1.0]]))
    for length in (1e-30, 1e30):  # float32 cannot hold the square
        torch.testing.assert_close(kernel_matrix(length * torch.tensor([[1.0, 0.0], [1.0, 1.0]])), kernel_KK)


@pytest.mark.parametrize("sigma", [0.4, 0.01, 1e-4])
def test_rbf_of_near_neighbors_is_exact_in_float32_at_a_small_sigma(sigma):
    """|a|² + |b|² - 2 a·b would be wrong by 1e-7, which exp(-x / (2 sigma²)) turns into any number."""
    vectors_KD = torch.nn.functional.normalize(unit_vectors(1, 384) + sigma * unit_vectors(20, 384, seed=1), dim=-1)
    vectors_KD = vectors_KD.float()
    exact_KK = (vectors_KD.double()[:, None] - vectors_KD.double()).norm(dim=-1).square().div(-2 * sigma**2).exp()
    torch.testing.assert_close(kernel_matrix(vectors_KD, kind="rbf", sigma=sigma).double(), exact_KK, rtol=0, atol=1e-7)


def test_a_quality_in_float64_makes_a_kernel_in_float64():
    vectors_KD, quality_K = unit_vectors(3, 5).float(), torch.full((3,), 1e4, dtype=torch.float64)
    exact_KK = 1e8 * kernel_matrix(vectors_KD.double())
    torch.testing.assert_close(kernel_matrix(vectors_KD, quality_PK=quality_K), exact_KK, rtol=1e-14, atol=0)
