import pytest
import torch

from dqo.critic.models.value_loss import Rate, ValueLoss

VALUES_N = torch.tensor([0.0, 0.5, 1.0, -1.0])
OLD_N = torch.tensor([0.0, 0.0, 0.9, 0.0])
RETURNS_N = torch.tensor([1.0, 1.0, 1.0, -0.5])
WEIGHTS_N = torch.tensor([0.25, 0.25, 0.25, 0.25])


def test_the_loss_is_half_the_larger_of_the_squared_errors():
    loss, means = ValueLoss(0.2)(VALUES_N, old_values_N=OLD_N, returns_N=RETURNS_N, weights_N=WEIGHTS_N)
    # clipped to 0.2 of the old value, the second misses by 0.8 and not 0.5, the last by 0.3, as against 0.5
    expected = 0.5 * torch.tensor([1.0, 0.8**2, 0.0, 0.5**2])
    assert float(loss) == pytest.approx(float(expected.mean()))
    assert {name: float(total / count) for name, (total, count) in means.items()} == pytest.approx(
        {"critic/vf_loss": float(expected.mean()), "critic/vf_clipfrac": 0.25}
    )


def test_a_value_that_has_moved_too_far_towards_its_return_gets_no_gradient():
    values_N = VALUES_N.clone().requires_grad_()
    ValueLoss(0.2)(values_N, old_values_N=OLD_N, returns_N=RETURNS_N, weights_N=WEIGHTS_N)[0].backward()
    assert values_N.grad is not None
    torch.testing.assert_close(values_N.grad, torch.tensor([-0.25, 0.0, 0.0, -0.125]))


def test_without_clipping_the_loss_is_the_squared_error():
    loss, means = ValueLoss(None)(VALUES_N, old_values_N=OLD_N, returns_N=RETURNS_N, weights_N=WEIGHTS_N)
    assert float(loss) == pytest.approx(float(0.5 * (VALUES_N - RETURNS_N).square().mean()))
    assert float(means["critic/vf_clipfrac"][0]) == 0


def test_rates_follow_the_policys_schedule():
    assert Rate(own=None, policy=0.1)(0.3) == 0.3
    assert Rate(own=1.0, policy=0.1)(0.05) == pytest.approx(0.5)
