"""What the functions of dqo.dpp refuse, and what rounding they forgive."""

import math

import pytest
import torch

from dqo.dpp import KernelError, greedy_map, kernel_matrix, leave_one_out_credits, log_det
from tests.dpp.definitions import unit_vectors


def pick_one(kernel_PKK):
    return greedy_map(kernel_PKK, 1)


FUNCTIONS = pytest.mark.parametrize("function", [leave_one_out_credits, log_det, pick_one])
ASYMMETRIC = [[1.0, 0.5], [0.2, 1.0]]  # L + I is positive definite
INDEFINITE = [[1.0, 1.5], [1.5, 1.0]]  # L + I is, too
NEGATIVE = [[1.0, 0.0], [0.0, -0.5]]  # and here


@FUNCTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (ASYMMETRIC, r"kernel of prompt 1 is not symmetric .*; pass \(L \+ L\.mT\) / 2"),
        (INDEFINITE, r"kernel of prompt 1 is not positive definite .*an eigenvalue of L is -0\.5"),
        (NEGATIVE, r"kernel of prompt 1 is not positive definite .*an eigenvalue of L is -0\.5"),
        ([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]], "prompt 1 is not positive definite"),
        ([[1.0, math.nan], [math.nan, 1.0]], "prompt 1 is not finite"),
        ([[math.inf, 0.0], [0.0, 1.0]], "prompt 1 is not finite"),
    ],
)
def test_a_matrix_that_is_no_kernel_is_refused_though_l_plus_i_is_positive_definite(function, dtype, matrix, message):
    kernel_KK = torch.tensor(matrix, dtype=dtype)
    with pytest.raises(KernelError, match=message) as caught:
        function(torch.stack([torch.eye(len(matrix), dtype=dtype), kernel_KK]))
    assert caught.value.prompts == (1,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["cosine", "rbf", "polynomial"])
@pytest.mark.parametrize("k", [1, 2, 8, 64])
def test_a_kernel_that_was_rounded_to_its_dtype_passes(dtype, kind, k):
    """Low rank, near duplicates and duplicates have eigenvalues of 0, which rounding makes negative."""
    near = torch.nn.functional.normalize(unit_vectors(1, 384) + 0.01 * unit_vectors(k, 384, seed=1), dim=-1)
    for vectors_KD in (unit_vectors(k, 2), near, near[:1].expand(k, -1)):
        kernel_KK = kernel_matrix(vectors_KD, kind=kind, sigma=0.1).to(dtype)
        noise_KK = torch.empty_like(kernel_KK).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
        kernel_KK = kernel_KK * (1 + torch.finfo(dtype).eps * noise_KK)  # a matrix product of the user's own
        assert leave_one_out_credits(kernel_KK).isfinite().all() and log_det(kernel_KK).isfinite()
        pick_one(kernel_KK)


def test_the_check_is_of_valid_items_alone_and_can_be_left_out():
    kernel_KK = torch.eye(3)
    kernel_KK[0, 2] = 0.5
    valid_K = torch.tensor([True, True, False])
    assert leave_one_out_credits(kernel_KK, valid_K).tolist() == pytest.approx([math.log(2), math.log(2), 0.0])
    with pytest.raises(KernelError, match="not symmetric"):
        leave_one_out_credits(kernel_KK)
    leave_one_out_credits(kernel_KK, check=False)
    with pytest.raises(KernelError, match="not finite"):
        leave_one_out_credits(torch.full((2, 2), math.nan), check=False)


@FUNCTIONS
def test_whole_numbers_are_taken_and_complex_ones_refused(function):
    assert torch.equal(function(torch.eye(3, dtype=torch.long)), function(torch.eye(3)))
    with pytest.raises(ValueError, match=r"kernel is torch\.complex64: real numbers are needed; pass kernel\.real"):
        function(torch.eye(3, dtype=torch.complex64))


@FUNCTIONS
def test_shapes_that_are_no_kernels_are_refused_and_no_sets_give_no_results(function):
    for shape in ((), (3,), (2, 3), (4, 3, 2)):
        with pytest.raises(ValueError, match=r"\(…, items, items\) is needed"):
            function(torch.ones(shape))
    assert len(function(torch.ones(0, 3, 3))) == 0
