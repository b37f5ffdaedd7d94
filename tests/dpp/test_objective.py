"""The maths of the credit: its policy gradient is the gradient of E[log det(L + I)]; the form of the optimum."""

import pytest
import torch

from dqo.dpp import kernel_matrix, leave_one_out_credits, log_det
from tests.dpp.definitions import credits_by_deletion, eye, unit_vectors

ITEMS = 6


class Enumeration:
    """A softmax policy over ITEMS answers, and all ITEMS^k groups that it can sample."""

    def __init__(self, k: int, *, dim: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.logits_M = torch.randn(ITEMS, generator=generator, dtype=torch.float64).requires_grad_()
        self.rewards_M = torch.rand(ITEMS, generator=generator, dtype=torch.float64)
        self.groups_GK = torch.cartesian_prod(*[torch.arange(ITEMS)] * k).reshape(-1, k)
        similar_MM = kernel_matrix(unit_vectors(ITEMS, dim, seed=seed))
        self.kernel_GKK = similar_MM[self.groups_GK[:, :, None], self.groups_GK[:, None, :]]
        self.logprobs_GK = self.logits_M.log_softmax(0)[self.groups_GK]
        self.probabilities_G = self.logprobs_GK.sum(-1).exp()

    def exact(self, values_G):
        """∇ E[value of the group], by autograd through the sum over all groups."""
        return self._gradient((self.probabilities_G * values_G).sum())

    def estimated(self, weights_GK):
        """E[ Σ_i weight_i ∇ log π(y_i) ], the expectation of the policy gradient."""
        return self._gradient((self.probabilities_G.detach() * (weights_GK * self.logprobs_GK).sum(-1)).sum())

    def _gradient(self, scalar):
        return torch.autograd.grad(scalar, self.logits_M, retain_graph=True)[0]


def group_deviations(values_GK):
    return values_GK - values_GK.mean(-1, keepdim=True)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_policy_gradient_of_the_credits_is_the_gradient_of_log_det(k):
    enumeration = Enumeration(k, dim=3, seed=k)
    estimated_M = enumeration.estimated(leave_one_out_credits(enumeration.kernel_GKK))
    exact_M = enumeration.exact(log_det(enumeration.kernel_GKK))
    torch.testing.assert_close(estimated_M, exact_M, rtol=0, atol=1e-10)
    assert k == 1 or exact_M.norm() > 1e-3  # at k = 1 all answers are equally diverse: the gradient is 0


def test_with_a_gate_the_gradient_is_exact_for_log_det_of_the_completions_that_pass():
    enumeration = Enumeration(4, dim=3, seed=0)
    passes_GK = torch.tensor([True, True, False, True, False, True])[enumeration.groups_GK]
    estimated_M = enumeration.estimated(leave_one_out_credits(enumeration.kernel_GKK, passes_GK))
    exact_M = enumeration.exact(log_det(enumeration.kernel_GKK, passes_GK))
    torch.testing.assert_close(estimated_M, exact_M, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("k", "scale"), [(2, 0.0), (3, 0.43), (4, 0.64), (5, 0.75)])
def test_the_groups_mean_as_baseline_keeps_the_direction_and_loses_scale(k, scale):
    scales = []
    for dim in (2, 3, 4, 8):
        for seed in range(3):
            enumeration = Enumeration(k, dim=dim, seed=seed)
            credits_GK = leave_one_out_credits(enumeration.kernel_GKK)
            exact_M, deviations_M = (
                enumeration.estimated(credits_GK),
                enumeration.estimated(group_deviations(credits_GK)),
            )
            scales.append((deviations_M.norm() / exact_M.norm()).item())
            assert k == 2 or torch.cosine_similarity(exact_M, deviations_M, dim=0) > 0.985
            rewards_GK = enumeration.rewards_M[enumeration.groups_GK]
            torch.testing.assert_close(
                enumeration.estimated(group_deviations(rewards_GK)), (k - 1) / k * enumeration.exact(rewards_GK.sum(-1))
            )
    assert sum(scales) / len(scales) == pytest.approx(scale, abs=0.03)
    assert k == 2 or max(scales) - min(scales) > 0.05  # the number holds for the mean; embedding spaces differ


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_credit_is_log_of_one_plus_the_elliptic_bonus(k):
    vectors_PKD = unit_vectors(8, k, 4)
    bonus_PK = torch.empty(8, k, dtype=torch.float64)
    for p, vectors_KD in enumerate(vectors_PKD):
        for i, vector_D in enumerate(vectors_KD):
            others = [j for j in range(k) if j != i]
            seen_DD = eye(4) + vectors_KD[others].mT @ vectors_KD[others]
            bonus_PK[p, i] = vector_D @ torch.linalg.solve(seen_DD, vector_D)
    torch.testing.assert_close(leave_one_out_credits(kernel_matrix(vectors_PKD)), bonus_PK.log1p())


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.7, 0.7), (1.5, 0.4), (0.3, 2.0)])
@pytest.mark.parametrize("k", [2, 3])
def test_the_optimum_is_proportional_to_det_of_the_quality_weighted_kernel(alpha, beta, k):
    """π* ∝ (det L_ψ)^(α/β), ψ = sqrt(exp(r/α) π_ref^(β/α)) φ, maximises E[Σ r + α log det L] - β KL."""
    generator = torch.Generator().manual_seed(0)
    vectors_MD = unit_vectors(5, 4)
    rewards_M = torch.rand(5, generator=generator, dtype=torch.float64)
    reference_M = torch.randn(5, generator=generator, dtype=torch.float64).softmax(0)
    groups_GK = torch.cartesian_prod(*[torch.arange(5)] * k)

    quality_M = (rewards_M / (2 * alpha)).exp() * reference_M ** (beta / (2 * alpha))
    weights_G = torch.linalg.det(kernel_matrix(vectors_MD[groups_GK], quality_PK=quality_M[groups_GK]))
    distinct_G = torch.tensor([len(set(group)) == k for group in groups_GK.tolist()])
    assert weights_G[~distinct_G].abs().max() < 1e-12  # a group with a repeat has volume 0: it is never sampled
    optimum_G = weights_G[distinct_G] ** (alpha / beta)
    optimum_G /= optimum_G.sum()

    groups_GK = groups_GK[distinct_G]
    volume_G = torch.logdet(kernel_matrix(vectors_MD[groups_GK]))
    gain_G = rewards_M[groups_GK].sum(-1) + alpha * volume_G + beta * reference_M[groups_GK].log().sum(-1)

    logits_G = optimum_G.log().requires_grad_()
    policy_G = logits_G.softmax(0)
    objective = (policy_G * (gain_G - beta * policy_G.log())).sum()
    (slope_G,) = torch.autograd.grad(objective, logits_G)
    assert slope_G.abs().max() < 1e-12  # stationary, and J is concave in the policy: the maximum
    for step in (0.1, 1.0):
        other_G = (logits_G + step * torch.randn(len(logits_G), generator=generator, dtype=torch.float64)).softmax(0)
        assert (other_G * (gain_G - beta * other_G.log())).sum() < objective


def test_independent_samples_cannot_reach_the_joint_optimum():
    """A repeat has probability 0 under det L, and at least 1/M under any policy that samples independently."""
    vectors_MD = unit_vectors(4, 4)
    groups_GK = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    optimum_MM = torch.linalg.det(kernel_matrix(vectors_MD[groups_GK])).reshape(4, 4)
    optimum_MM = optimum_MM / optimum_MM.sum()
    marginal_M = optimum_MM.sum(1)
    assert optimum_MM.diagonal().abs().sum() < 1e-12
    assert marginal_M.square().sum() >= 1 / 4


def test_credits_by_deletion_equal_a_hand_computed_example():
    """Two vectors at an angle of 60 degrees."""
    kernel_KK = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    expected = torch.tensor([3.75 / 2] * 2, dtype=torch.float64).log()
    torch.testing.assert_close(credits_by_deletion(kernel_KK), expected)
