import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.terms.kl_cov import KlCov
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs


def kl_cov(*, share=0.25, num_iterations=2, ahead=0):
    return KlCov(share=share, coefficient=0.5, num_iterations=num_iterations, ahead=ahead)


def test_the_tokens_of_the_largest_covariance_are_held():
    experience, generator = make_experience(prompts=4, k=4), torch.Generator().manual_seed(0)
    sampled_BT = experience.rollouts.sampled_BT
    logprobs_BT, advantages_BT = torch.randn(2, *sampled_BT.shape, generator=generator) * sampled_BT
    marks = kl_cov().marks(experience, Estimates(old_logprobs_BT=logprobs_BT), Targets(advantages_BT=advantages_BT))
    advantages, logprobs, held_N = advantages_BT[sampled_BT], logprobs_BT[sampled_BT], marks["kl_cov"][sampled_BT]
    covariances_N = (advantages - advantages.mean()) * (logprobs - logprobs.mean())
    expected = covariances_N.topk(int(0.25 * len(covariances_N))).indices.sort().values
    assert held_N.nonzero()[:, 0].equal(expected)


def test_the_term_is_the_absolute_log_ratio_of_held_tokens():
    logprobs_N = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    inputs = make_loss_inputs(
        logprobs_N, old_logprobs_N=torch.tensor([-1.5, -2.0, -2.0]), weights_N=torch.tensor([0.1, 0.2, 0.4]),
        marks={"kl_cov": torch.tensor([True, False, True])},
    )  # fmt: skip
    loss, means = kl_cov()(inputs)
    assert loss.item() == pytest.approx(0.5 * (0.1 * 0.5 + 0.4 * 1.0))
    (gradient_N,) = torch.autograd.grad(loss, logprobs_N)
    torch.testing.assert_close(gradient_N, torch.tensor([0.05, 0.0, -0.2]))
    total, count = means["kl_cov/log_ratio"]
    assert total / count == pytest.approx(0.75)


def test_a_term_without_any_effect_is_refused():
    with pytest.raises(ConfigError, match=r"^learner\.num_iterations=1: .*type learner\.num_iterations=2"):
        kl_cov(num_iterations=1)
    kl_cov(num_iterations=1, ahead=1)  # rows sampled by older weights have ratios
