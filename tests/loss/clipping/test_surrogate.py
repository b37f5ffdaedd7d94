import math

import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.clip import LossType
from dqo.loss.clipping.surrogate import Clipping
from tests.factories import make_loss_inputs


def clipping(loss_type: LossType, **keys) -> Clipping:
    plain = {"epsilon": 0.2, "epsilon_high": 0.28, "delta": None, "temperature_pos": 1.0, "temperature_neg": 1.05}
    return Clipping(loss_type=loss_type, **(plain | keys))


def gradients(how: Clipping, ratios, advantages):
    """Of each token's objective by its log-probability, the old one being 0."""
    logprobs_N = torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()
    inputs = make_loss_inputs(logprobs_N, advantages_N=torch.tensor(advantages, dtype=torch.float64))
    (gradient_N,) = torch.autograd.grad(how.surrogates(logprobs_N.exp(), inputs).sum(), logprobs_N)
    return gradient_N.tolist(), how.clipped(logprobs_N.exp(), inputs)


@pytest.mark.parametrize("loss_type", LossType)
def test_where_the_ratio_is_1_every_loss_is_the_policy_gradient(loss_type):
    found, _ = gradients(clipping(loss_type), [1.0, 1.0, 1.0], [2.0, -0.5, 0.0])
    assert found == pytest.approx([2.0, -0.5, 0.0])


def test_cispo_caps_the_weight_of_a_token_and_keeps_its_gradient():
    """The gradient of min(ratio, 1 + epsilon_high) * A * log π; clipping proper would have 0 for the first token."""
    found, clipped = gradients(clipping(LossType.cispo), [2.0, 2.0, 0.1, 1.1], [1.0, -3.0, 1.0, 1.0])
    assert found == pytest.approx([1.28, -3 * 1.28, 0.1, 1.1])
    assert {name: hits_N.tolist() for name, hits_N in clipped.items()} == {"high": [True, True, False, False]}


def test_sapos_gradient_fades_as_the_ratio_leaves_1():
    """A * ratio * sech²(τ (ratio - 1) / 2), τ = 1 for a positive and 1.05 for a negative advantage."""
    ratios, advantages = [0.5, 1.5, 4.0, 1.5], [1.0, 1.0, 1.0, -1.0]
    found, clipped = gradients(clipping(LossType.sapo), ratios, advantages)
    taus = [1.0, 1.0, 1.0, 1.05]
    expected = [a * r / math.cosh(tau * (r - 1) / 2) ** 2 for r, a, tau in zip(ratios, advantages, taus, strict=True)]
    assert found == pytest.approx(expected)
    assert clipped == {}


@pytest.mark.parametrize("loss_type", [LossType.cispo, LossType.sapo])
def test_a_cap_that_would_do_nothing_is_refused(loss_type):
    message = rf"loss\.delta=4\.0: loss\.loss_type={loss_type} does not clip the ratio; type loss\.delta=null, or"
    with pytest.raises(ConfigError, match=message):
        clipping(loss_type, delta=4.0)
