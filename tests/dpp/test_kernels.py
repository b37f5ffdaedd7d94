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
        ({"quality_PK": torch.ones(3)}, r"quality of shape \(3,\) for items of shape \(4, 5\)"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_matrix(VECTORS_PKD, **arguments)


def test_a_single_vector_is_refused():
    with pytest.raises(ValueError, match=r"shape \(7,\): \(…, items, width\)"):
        kernel_matrix(VECTORS_PKD[0, 0])
