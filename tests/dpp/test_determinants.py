import math
import warnings

import pytest
import torch

from dqo.dpp import KernelError, determinants, kernel_matrix, leave_one_out_credits, log_det
from tests.dpp.definitions import credits_by_deletion, eye, unit_vectors


def spread(credits_PK):
    return credits_PK.amax(-1) - credits_PK.amin(-1)


def one_outlier(k):
    """k - 1 identical vectors and one vector orthogonal to them."""
    return torch.stack([eye(k)[0]] * (k - 1) + [eye(k)[1]])


# Against the definition


@pytest.mark.parametrize("k", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("kind", ["cosine", "rbf", "polynomial"])
def test_credits_equal_the_drop_of_log_det_when_a_row_is_deleted(k, kind):
    kernel_PKK = kernel_matrix(unit_vectors(6, k, 5), kind=kind, offset=1.0)
    torch.testing.assert_close(leave_one_out_credits(kernel_PKK), credits_by_deletion(kernel_PKK), rtol=0, atol=1e-12)


def test_quality_weighted_credits_equal_the_drop_of_log_det_when_a_row_is_deleted():
    kernel_PKK = kernel_matrix(unit_vectors(6, 8, 5), quality_PK=4 * torch.rand(6, 8, dtype=torch.float64))
    torch.testing.assert_close(leave_one_out_credits(kernel_PKK), credits_by_deletion(kernel_PKK), rtol=0, atol=1e-12)


def hard_groups(k, seed):
    """Unit vectors in float32: random, of low rank, near duplicates, duplicates, clusters."""
    base_D = unit_vectors(1, 384, seed=seed)
    yield unit_vectors(k, 384, seed=seed).float()
    yield unit_vectors(k, 3, seed=seed).float()
    for distance in (1e-2, 1e-4):
        yield torch.nn.functional.normalize(base_D + distance * unit_vectors(k, 384, seed=seed + 1), dim=-1).float()
    yield base_D.expand(k, -1).float()
    yield unit_vectors(max(1, k // 8), 384, seed=seed)[torch.arange(k) % max(1, k // 8)].float()


@pytest.mark.parametrize(
    "kernel",
    [
        {"kind": "cosine"}, *({"kind": "rbf", "sigma": sigma} for sigma in (0.4, 0.1, 0.01, 0.001)),
        {"kind": "polynomial", "degree": 3, "offset": 1.0},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("k", "scale"), [(2, 1.0), (2, 700.0), (8, 1.0), (8, 700.0), (64, 1.0), (64, 30.0), (512, 1.0)]
)
def test_float32_is_accurate_to_epsilon_times_the_largest_entry(k, scale, kernel):
    for vectors_KD in hard_groups(k, seed=k):
        quality_K = torch.full((k,), math.sqrt(scale))
        kernel_KK = kernel_matrix(vectors_KD, quality_PK=quality_K, **kernel)
        exact_KK = kernel_matrix(vectors_KD.double(), quality_PK=quality_K.double(), **kernel) + eye(k)
        rounding = torch.finfo(torch.float32).eps * max(1.0, kernel_KK.diagonal().max().item())
        credits_K, volume = leave_one_out_credits(kernel_KK), log_det(kernel_KK)
        assert credits_K.dtype == volume.dtype == torch.float32
        exact_K = -torch.linalg.inv(exact_KK).diagonal().log()
        torch.testing.assert_close(credits_K.double(), exact_K, rtol=1e-6, atol=rounding)
        torch.testing.assert_close(volume.double(), torch.logdet(exact_KK), rtol=1e-6, atol=rounding * k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernel", [{"kind": "cosine"}, {"kind": "rbf", "sigma": 0.001}, {"kind": "polynomial"}])
@pytest.mark.parametrize("k", [2, 3, 7, 9, 64])
def test_identical_items_have_equal_credits_whatever_their_length(k, kernel, dtype):
    largest = 0.9 * determinants.ACCURACY / torch.finfo(dtype).eps / (1 if dtype == torch.float32 else 1 + 16 * k**0.5)
    for seed, length in enumerate([1.0, 17.0, 1e3, 0.3 * largest, largest]):
        quality_PK = torch.full((3, k), math.sqrt(length), dtype=dtype)
        vectors_PKD = unit_vectors(3, 1, 384, seed=seed, dtype=dtype).expand(3, k, 384)
        credits_PK = leave_one_out_credits(kernel_matrix(vectors_PKD, quality_PK=quality_PK, **kernel))
        assert spread(credits_PK).tolist() == [0.0] * 3


def test_log_det_is_of_the_kernel_plus_identity():
    kernel_PKK = kernel_matrix(unit_vectors(6, 8, 5))
    torch.testing.assert_close(log_det(kernel_PKK), torch.logdet(kernel_PKK + eye(8)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("k", "chunk"), [(4, "CHUNK"), (determinants.SMALL, "CHUNK_LAPACK")])
def test_credits_do_not_depend_on_the_chunk_size(k, chunk, monkeypatch):
    kernel_PKK = kernel_matrix(unit_vectors(7, k, 5))
    whole_PK = leave_one_out_credits(kernel_PKK)
    monkeypatch.setattr(determinants, chunk, 2 * k * k)
    assert torch.equal(leave_one_out_credits(kernel_PKK), whole_PK)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 16, 33, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_elimination_and_cholesky_give_the_same_credits(k, dtype, monkeypatch):
    """Random, near and exact duplicates, long vectors; with and without a mask."""
    pad = torch.nn.functional.pad
    groups_PKD = torch.stack([pad(group_KD, (0, 384 - group_KD.shape[1])) for group_KD in hard_groups(k, seed=k)])
    all_PK = torch.ones(len(groups_PKD), k, dtype=torch.bool)
    some_PK = torch.arange(all_PK.numel()).reshape(all_PK.shape) % 3 > 0
    for length, valid_PK in ((1.0, all_PK), (1.0, some_PK), (50.0, some_PK), (0.0, all_PK)):
        quality_PK = torch.full(groups_PKD.shape[:2], length, dtype=dtype)
        kernel_PKK = kernel_matrix(groups_PKD.to(dtype), quality_PK=quality_PK)
        monkeypatch.setattr(determinants, "SMALL", 1000)
        eliminated_PK = leave_one_out_credits(kernel_PKK, valid_PK)
        monkeypatch.setattr(determinants, "SMALL", 0)
        factored_PK = leave_one_out_credits(kernel_PKK, valid_PK)
        error = 1e-11 if dtype == torch.float64 else 1e-6
        torch.testing.assert_close(factored_PK, eliminated_PK, rtol=0, atol=error)
        assert len(factored_PK[4, valid_PK[4]].unique()) <= 1  # exact duplicates


@pytest.mark.parametrize("k", [2, 16])
def test_elimination_and_cholesky_refuse_the_same_groups(k, monkeypatch):
    kernel_PKK = kernel_matrix(unit_vectors(6, k, 5))
    kernel_PKK[1] *= -3  # a pivot below 0
    kernel_PKK[2] = 3 - 4 * eye(k)  # the last pivot below 0
    kernel_PKK[4] = -eye(k)  # L + I = 0
    for value, refused in ((None, (1, 2, 4)), (math.nan, (3,)), (math.inf, (3,))):
        if value is not None:
            kernel_PKK[3, 0, 1] = kernel_PKK[3, 1, 0] = value
        refusals = set()
        for small in (1000, 0):
            monkeypatch.setattr(determinants, "SMALL", small)
            with pytest.raises(KernelError) as caught:
                leave_one_out_credits(kernel_PKK, check=False)
            refusals.add((caught.value.prompts, caught.value.reason))
        assert {prompts for prompts, _ in refusals} == {refused}
        assert len(refusals) == 1


def test_kernels_may_have_any_leading_dimensions():
    kernel = kernel_matrix(unit_vectors(2, 3, 4, 5))
    credits, volumes = leave_one_out_credits(kernel), log_det(kernel)
    assert credits.shape == (2, 3, 4) and volumes.shape == (2, 3)
    torch.testing.assert_close(leave_one_out_credits(kernel[1, 2]), credits[1, 2])
    torch.testing.assert_close(log_det(kernel[1, 2]), volumes[1, 2])
    assert leave_one_out_credits(kernel[:0]).shape == (0, 3, 4)
    assert torch.equal(log_det(kernel[..., :0, :0]), torch.zeros(2, 3, dtype=torch.float64))
    assert leave_one_out_credits(kernel[..., :0, :0]).shape == (2, 3, 0)


def test_the_input_kernel_is_not_changed():
    kernel_PKK = kernel_matrix(unit_vectors(1, 1, 5))  # k = 1 is contiguous in every order
    before_PKK = kernel_PKK.clone()
    leave_one_out_credits(kernel_PKK)
    log_det(kernel_PKK)
    assert torch.equal(kernel_PKK, before_PKK)


# Range and spread


def test_a_single_item_has_credit_log_2():
    credits_K = leave_one_out_credits(kernel_matrix(unit_vectors(1, 5)))
    torch.testing.assert_close(credits_K, torch.tensor([math.log(2)], dtype=torch.float64))


def test_two_items_have_equal_credits():
    credits_PK = leave_one_out_credits(kernel_matrix(unit_vectors(50, 2, 3)))
    assert spread(credits_PK).max() < 1e-15


@pytest.mark.parametrize("k", [2, 3, 8, 16])
def test_both_ends_of_the_range_are_reached(k):
    same_K = leave_one_out_credits(kernel_matrix(unit_vectors(1, 5).expand(k, -1)))
    torch.testing.assert_close(same_K, torch.full((k,), math.log(1 + 1 / k), dtype=torch.float64))
    orthogonal_K = leave_one_out_credits(kernel_matrix(eye(k)))
    torch.testing.assert_close(orthogonal_K, torch.full((k,), math.log(2), dtype=torch.float64))


@pytest.mark.parametrize("kind", ["cosine", "rbf", "polynomial"])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_the_range_holds_for_a_unit_diagonal(k, kind):
    for dim in (1, 2, 3, 16):
        credits_PK = leave_one_out_credits(kernel_matrix(unit_vectors(500, k, dim), kind=kind))
        assert credits_PK.min() >= math.log(1 + 1 / k) - 1e-12
        assert credits_PK.max() <= math.log(2) + 1e-12


@pytest.mark.parametrize(("k", "largest"), [(2, 0.0), (3, 0.288), (4, 0.405), (8, 0.560)])
def test_one_outlier_gives_the_largest_spread(k, largest):
    attained = spread(leave_one_out_credits(kernel_matrix(one_outlier(k)))).item()
    assert attained == pytest.approx(math.log(2 * (k - 1) / k), abs=1e-12)
    assert attained == pytest.approx(largest, abs=5e-4)


@pytest.mark.parametrize("k", [3, 4, 8])
def test_no_group_has_a_larger_spread(k):
    """Gradient ascent on the spread from 100 random groups reaches the bound and never exceeds it."""
    vectors_PKD, largest = unit_vectors(100, k, 3), 0.0
    for _ in range(150):
        vectors_PKD.requires_grad_()
        credits_PK = -torch.linalg.inv(kernel_matrix(vectors_PKD) + eye(k)).diagonal(dim1=-2, dim2=-1).log()
        largest = max(largest, spread(credits_PK).max().item())
        (uphill_PKD,) = torch.autograd.grad(spread(credits_PK).sum(), vectors_PKD)
        step_PKD = 0.1 * torch.nn.functional.normalize(uphill_PKD.flatten(1)).reshape_as(uphill_PKD)
        vectors_PKD = torch.nn.functional.normalize(vectors_PKD.detach() + step_PKD, dim=-1)
    bound = math.log(2 * (k - 1) / k)
    assert bound - 1e-2 < largest <= bound + 1e-12


def test_lemma_1_bounds_every_kernel():
    """1 + λ_min <= exp(c_i) <= 1 + λ_max, also for lengths from 0.1 to 10, where the sharper range does not hold."""
    lengths_PK1 = 10 ** (2 * torch.rand(300, 6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1)
    vectors_PKD = lengths_PK1 * unit_vectors(300, 6, 4)
    kernel_PKK = kernel_matrix(vectors_PKD, kind="polynomial", degree=1)
    credits_PK = leave_one_out_credits(kernel_PKK)
    eigenvalues_PK = torch.linalg.eigvalsh(kernel_PKK)
    assert (credits_PK >= (eigenvalues_PK[:, :1].clamp(min=0) + 1).log() - 1e-12).all()
    assert (credits_PK <= (eigenvalues_PK[:, -1:] + 1).log() + 1e-12).all()
    assert credits_PK.max() > math.log(2) and credits_PK.min() < math.log(1 + 1 / 6)


# Symmetries


def test_permuting_the_group_permutes_its_credits():
    vectors_PKD, order = unit_vectors(5, 8, 6), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    credits_PK = leave_one_out_credits(kernel_matrix(vectors_PKD))
    torch.testing.assert_close(leave_one_out_credits(kernel_matrix(vectors_PKD[:, order])), credits_PK[:, order])


def test_duplicates_have_equal_and_smaller_credits():
    vectors_KD = unit_vectors(4, 6)
    alone_K = leave_one_out_credits(kernel_matrix(vectors_KD))
    twice_K = leave_one_out_credits(kernel_matrix(torch.cat([vectors_KD, vectors_KD[:1]])))
    assert twice_K[0].item() == pytest.approx(twice_K[4].item(), abs=1e-14)
    assert twice_K[0] < alone_K[0] - 0.1
    assert log_det(kernel_matrix(torch.cat([vectors_KD, vectors_KD[:1]]))).isfinite()


# Masks


@pytest.mark.parametrize("garbage", [1e6, math.nan, math.inf])
def test_invalid_items_have_credit_0_and_do_not_change_the_others(garbage):
    vectors_PKD = unit_vectors(3, 6, 4)
    valid_PK = torch.tensor([[1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    kernel_PKK = kernel_matrix(vectors_PKD.masked_fill(~valid_PK[..., None], garbage))
    credits_PK, volumes_P = leave_one_out_credits(kernel_PKK, valid_PK), log_det(kernel_PKK, valid_PK)
    assert credits_PK[~valid_PK].tolist() == [0.0] * 13
    for vectors_KD, valid_K, credits_K, volume in zip(vectors_PKD, valid_PK, credits_PK, volumes_P, strict=True):
        kept_KK = kernel_matrix(vectors_KD[valid_K])
        torch.testing.assert_close(credits_K[valid_K], leave_one_out_credits(kept_KK))
        torch.testing.assert_close(volume, log_det(kept_KK))


# Gradients


def test_no_gradient_flows_through_credits():
    vectors_PKD = unit_vectors(2, 4, 3).requires_grad_()
    credits_PK = leave_one_out_credits(kernel_matrix(vectors_PKD))
    assert not credits_PK.requires_grad and credits_PK.grad_fn is None


def test_log_det_is_differentiable():
    kernel_PKK = kernel_matrix(unit_vectors(2, 4, 3)).requires_grad_()
    log_det(kernel_PKK).sum().backward()
    torch.testing.assert_close(kernel_PKK.grad, torch.linalg.inv(kernel_PKK.detach() + eye(4)))


@pytest.mark.parametrize("kind", ["cosine", "rbf", "polynomial"])
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e200])
def test_the_gradient_beside_a_masked_vector_is_as_without_it(kind, value):
    """A vector of length 0 has no cosine: its row is NaN, which no gradient may carry to the others."""
    vectors_PKD, keep = unit_vectors(2, 4, 3), [0, 2, 3]
    beside_PKD, alone_PKD = vectors_PKD.clone(), vectors_PKD[:, keep].clone().requires_grad_()
    beside_PKD[:, 1] = value
    beside_PKD.requires_grad_()
    valid_PK = torch.tensor([True, False, True, True]).expand(2, -1)
    log_det(kernel_matrix(beside_PKD, kind=kind), valid_PK).sum().backward()
    log_det(kernel_matrix(alone_PKD, kind=kind)).sum().backward()
    assert beside_PKD.grad is not None and alone_PKD.grad is not None
    torch.testing.assert_close(beside_PKD.grad[:, keep], alone_PKD.grad)
    assert not beside_PKD.grad[:, 1].any()


def test_the_gradient_beside_a_masked_quality_that_is_not_finite_is_clean():
    vectors_KD, quality_K = unit_vectors(3, 4), torch.tensor([1.0, math.inf, 2.0], requires_grad=True)
    log_det(kernel_matrix(vectors_KD, quality_PK=quality_K), torch.tensor([True, False, True])).backward()
    assert quality_K.grad is not None and quality_K.grad.isfinite().all() and quality_K.grad[1] == 0


# Errors


@pytest.mark.parametrize("function", [leave_one_out_credits, log_det])
def test_a_kernel_too_large_for_float32_names_the_prompts_and_the_key_to_type(function):
    kernel_PKK = kernel_matrix(unit_vectors(1, 4).expand(5, 3, 4), quality_PK=torch.ones(5, 3, dtype=torch.float64))
    kernel_PKK[1] *= 1e8  # duplicates: L + I is L in float32
    kernel_PKK[3] *= 1e8
    with pytest.raises(KernelError) as caught:
        function(kernel_PKK.float())
    assert caught.value.prompts == (1, 3)
    assert str(caught.value) == (
        "kernel of prompts 1, 3 is not positive definite in float32 (largest entry 1e+08); "
        "compute it in float64 (credit.dtype=float64)"
    )
    function(kernel_PKK)  # float64 can hold it


@pytest.mark.parametrize("size", [1e1, 1e2, 1e3, 8e3, 1e4, 1e6])
def test_credits_are_accurate_to_1e_3_or_refused(size):
    """Entries of 1e6 can be factored in float32, but some credits are then wrong by 0.1."""
    kernel_PKK = size * kernel_matrix(unit_vectors(500, 8, 2))
    assert not torch.linalg.cholesky_ex(kernel_PKK.float() + torch.eye(8)).info.any()
    if size > 9e3:
        for function in (leave_one_out_credits, log_det):
            with pytest.raises(KernelError, match="float32"):
                function(kernel_PKK.float())
    else:
        credits_PK = leave_one_out_credits(kernel_PKK.float()).double()
        torch.testing.assert_close(credits_PK, credits_by_deletion(kernel_PKK), rtol=0, atol=determinants.ACCURACY)


@pytest.mark.parametrize("function", [leave_one_out_credits, log_det])
@pytest.mark.parametrize("shifted", [[[2.0, 3.0], [3.0, 2.0]], [[-1 / 3, 2 / 3], [2 / 3, -1 / 3]]])
def test_a_matrix_that_is_no_kernel_is_refused(function, shifted):
    """The inverse of the second matrix has a diagonal of ones: its credits would look plausible."""
    with pytest.raises(KernelError, match=r"prompt 0 is not positive definite in float64 .*; it may be no kernel"):
        function(torch.tensor(shifted, dtype=torch.float64) - eye(2))


@pytest.mark.parametrize("function", [leave_one_out_credits, log_det])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_kernel_that_is_not_finite_is_refused(function, value):
    kernel_PKK = kernel_matrix(unit_vectors(4, 3, 5))
    kernel_PKK[2, 1, 1] = value
    with pytest.raises(KernelError, match="prompt 2 is not finite") as caught:
        function(kernel_PKK)
    assert caught.value.prompts == (2,)


@pytest.mark.parametrize("function", [leave_one_out_credits, log_det])
def test_wrong_shapes_are_refused(function):
    with pytest.raises(ValueError, match=r"kernel of shape \(2, 3\)"):
        function(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"kernel of shape \(3,\)"):
        function(torch.ones(3))
    with pytest.raises(ValueError, match=r"valid is torch.bool of shape \(4,\): torch.bool of shape \(3,\)"):
        function(torch.eye(3), torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"valid is torch\.float32"):
        function(torch.eye(3), torch.ones(3))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("prompts", "k"), [(6, 8), (1, 1), (300, 16), (40, 64), (9, 256), (4, 512)])
@pytest.mark.parametrize("chunk", [2**10, 2**24])
def test_a_gpu_gives_the_credits_of_a_cpu(prompts, k, chunk, monkeypatch):
    """Of random groups and of one with identical completions: the libraries take other algorithms by k and batch."""
    monkeypatch.setattr(determinants, "CHUNK_GPU", chunk)
    vectors_PKD = unit_vectors(prompts, k, 32)
    vectors_PKD[0] = vectors_PKD[0, 0].clone()
    valid_PK = torch.arange(prompts * k).reshape(prompts, k) % 5 > 0
    for dtype, error in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        kernel_PKK = kernel_matrix(vectors_PKD.to(dtype))
        for valid in (torch.ones_like(valid_PK), valid_PK):
            credits_PK = leave_one_out_credits(kernel_PKK.cuda(), valid.cuda())
            assert credits_PK.is_cuda
            torch.testing.assert_close(credits_PK.cpu(), leave_one_out_credits(kernel_PKK, valid), rtol=0, atol=error)
            assert len(credits_PK.cpu()[0, valid[0]].unique()) <= 1  # identical: one number


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_names_the_prompts_whose_kernels_are_bad():
    kernel_PKK = kernel_matrix(unit_vectors(4, 3, 5)).cuda()
    kernel_PKK[1] -= 2 * torch.eye(3, device="cuda")
    kernel_PKK[2, 0, 1] = math.nan
    for bad, reason in ((2, "prompt 2 is not finite"), (1, "prompt 1 is not positive definite")):
        with pytest.raises(KernelError, match=reason) as caught:
            leave_one_out_credits(kernel_PKK, check=False)
        assert caught.value.prompts == (bad,)
        kernel_PKK[2] = torch.eye(3, device="cuda")


@pytest.mark.gpu
@needs_gpu
def test_credits_wait_for_the_gpu_once():
    embeddings_PKD, valid_PK = unit_vectors(6, 8, 5).cuda(), torch.ones(6, 8, dtype=torch.bool, device="cuda")
    leave_one_out_credits(kernel_matrix(embeddings_PKD), valid_PK, check=False)  # libraries start
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            leave_one_out_credits(kernel_matrix(embeddings_PKD), valid_PK, check=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchroniz" in str(wait.message)]) == 1
