import math

import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.terms.kl_sequence import KlSequence
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs


def k3(difference):
    return math.exp(difference) - difference - 1


def test_a_token_is_marked_with_the_kl_of_the_later_ones_minus_that_of_the_other_completions():
    experience, k = make_experience(prompts=2, k=3), 3
    experience.rewards.valid_PK[1, 2] = False
    rollouts, valid_B = experience.rollouts, experience.rewards.valid_PK.flatten()
    sampled_BT, generator = rollouts.sampled_BT, torch.Generator().manual_seed(0)
    old_BT, ref_BT = -torch.rand(2, *sampled_BT.shape, generator=generator) * 2 * sampled_BT
    estimates = Estimates(old_logprobs_BT=old_BT, ref_logprobs_BT=ref_BT)
    marks = KlSequence(coefficient=1.0).marks(experience, estimates, Targets(advantages_BT=torch.zeros_like(old_BT)))

    def later(row, column):
        columns = range(column + 1, sampled_BT.shape[1])
        return sum(k3(float(ref_BT[row, c] - old_BT[row, c])) for c in columns if sampled_BT[row, c])

    for row, column in torch.ones_like(sampled_BT).nonzero().tolist():
        group = range(row // k * k, row // k * k + k)
        others = [later(other, column) for other in group if valid_B[other] and other != row]
        expected = later(row, column) - sum(others) / len(others) if others else later(row, column)
        expected = expected if sampled_BT[row, column] and valid_B[row] else 0.0
        assert marks["later_kl"][row, column].item() == pytest.approx(expected, abs=1e-6)


def test_the_term_is_weighted_by_the_ratio_with_gradient():
    logprobs_N = torch.tensor([-1.0, -2.0, -1.5], requires_grad=True)
    ref_N, later_N = torch.tensor([-2.0, -2.0, -1.0]), torch.tensor([0.7, -0.1, 0.3])
    inputs = make_loss_inputs(
        logprobs_N, old_logprobs_N=torch.tensor([-1.0, -2.5, -1.5]), ref_logprobs_N=ref_N, marks={"later_kl": later_N},
        weights_N=torch.full((3,), 0.5), rows_N=torch.tensor([4, 4, 7]),
    )  # fmt: skip
    loss, means = KlSequence(coefficient=0.2)(inputs)
    ratios_N = torch.tensor([1.0, math.exp(0.5), 1.0])
    torch.testing.assert_close(loss.detach(), (0.1 * ratios_N * later_N).sum())
    (gradient_N,) = torch.autograd.grad(loss, logprobs_N)
    torch.testing.assert_close(gradient_N, 0.1 * ratios_N * later_N)
    total, count = means["kl/sequence"]
    assert total / count == pytest.approx((k3(-1.0) + k3(0.0) + k3(0.5)) / 2)


def test_without_a_kl_the_term_is_refused():
    with pytest.raises(ConfigError, match=r"^beta=0: .*type beta="):
        KlSequence(coefficient=0.0)
