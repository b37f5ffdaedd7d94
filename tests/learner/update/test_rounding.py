"""Learning with weights in bfloat16: what the optimizer adds is not lost, and the policy sees it."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from dqo.learner.update.rounding import RoundedSteps, Rounding
from dqo.models.precision import Dtype
from dqo.records import Estimates
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import adamw, make_learner, targets_of

BF16 = {"dtype": Dtype.BFLOAT16}


def on_grid(tensor: Tensor) -> bool:
    return torch.equal(tensor, tensor.bfloat16().to(tensor.dtype))


def grid_llama():
    """A model as the hub stores it: every weight is a bfloat16 number."""
    model = tiny_llama()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def learned(steps: int, *, learning_rate: float = 1e-5, **settings):
    """A learner after some steps on one batch, and its reports."""
    torch.manual_seed(0)  # of adapters
    learner = make_learner(grid_llama(), optim=adamw(learning_rate=learning_rate, steps=steps), **settings)
    experience = make_experience(prompts=3, k=4, seed=0)
    reports = [learner.update(experience, Estimates(), targets_of(experience)) for _ in range(steps)]
    return learner, reports


def change(learner) -> Tensor:
    """Of the exact weights since the start."""
    start = dict(grid_llama().named_parameters())
    with learner.rounded_steps.exact():
        return torch.cat([(p.detach() - start[name].detach()).flatten() for name, p in learner._parameters("policy")])


def test_exact_and_rounded_weights_determine_one_another():
    numbers = torch.randn(300, 1001)
    parameter, steps = Parameter(numbers.clone()), RoundedSteps(Rounding.DITHERED)
    steps.round([parameter])
    assert on_grid(parameter.data)
    assert not torch.equal(parameter.data, numbers)
    for _ in range(2):
        with steps.exact():
            assert torch.equal(parameter.data, numbers)
        assert on_grid(parameter.data)


def test_the_optimizer_steps_on_exact_weights():
    numbers = torch.randn(50, 40)
    one, other = Parameter(numbers.bfloat16().float()), Parameter(numbers.bfloat16().float())
    optimizers = [torch.optim.AdamW([p], lr=1e-5, weight_decay=0.1) for p in (one, other)]
    steps = RoundedSteps(Rounding.DITHERED)
    steps.attach(optimizers[0])
    for seed in range(20):
        gradient = torch.randn(50, 40, generator=torch.Generator().manual_seed(seed))
        for parameter, optimizer in zip((one, other), optimizers, strict=True):
            parameter.grad = gradient
            optimizer.step()
    assert on_grid(one.data)
    with steps.exact():
        torch.testing.assert_close(one.data, other.data, rtol=0, atol=1e-6)  # the decay acts on exact weights, too


def test_after_a_step_the_weights_are_on_the_grid_and_the_sent_ones_are_equal():
    learner, _ = learned(3, **BF16)
    sent = dict(learner.weights())
    for name, parameter in learner.policy.named_parameters():
        assert on_grid(parameter.data), name
        assert torch.equal(sent[name], parameter.data), name


def test_in_bfloat16_a_small_update_is_seen_where_it_is_dithered():
    for settings, low, high in (
        ({"dtype": Dtype.FLOAT32}, 1.0 - 1e-6, 1.0 + 1e-6),
        (BF16, 0.9, 1.1),
        ({**BF16, "rounding": Rounding.NEAREST}, -0.01, 0.3),
    ):
        _, reports = learned(3, **settings)
        for report in reports:
            assert low <= report["update/seen"] <= high, settings


def test_it_warns_once_where_the_update_is_not_seen(caplog):
    learned(3, **BF16, rounding=Rounding.NEAREST)
    (said,) = [record.getMessage() for record in caplog.records if "learner.rounding" in record.getMessage()]
    assert "type learner.rounding=dithered" in said
    caplog.clear()
    learned(3, **BF16)
    assert not caplog.records


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4}])
def test_twenty_steps_go_where_fp32_goes(settings):
    exact, _ = learned(20, **settings)
    rounded, _ = learned(20, **settings, **BF16)
    if settings:  # adapters start alike, but for rounding
        one, other = (
            torch.cat([t.detach().flatten() for _, t in each._parameters("policy")]) for each in (exact, rounded)
        )
    else:
        one, other = change(exact), change(rounded)
    assert torch.cosine_similarity(one, other, dim=0) > 0.9
    assert other.norm() / one.norm() == pytest.approx(1.0, abs=0.1)


def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path):
    learner, _ = learned(3, **BF16)
    learner.save(tmp_path)
    other = make_learner(tiny_llama(seed=5), optim=adamw(learning_rate=1e-5, steps=3), **BF16)
    other.load(tmp_path)
    experience = make_experience(prompts=3, k=4, seed=1)
    for each in (learner, other):
        each.update(experience, Estimates(), targets_of(experience))
    for (name, one), (_, two) in zip(learner.weights(), other.weights(), strict=True):
        assert torch.equal(one, two), name
    with learner.rounded_steps.exact(), other.rounded_steps.exact():
        for (name, one), (_, two) in zip(learner._parameters("policy"), other._parameters("policy"), strict=True):
            assert torch.equal(one, two), name


def test_a_checkpoint_holds_the_exact_weights_for_a_learner_in_fp32(tmp_path):
    learner, _ = learned(3, **BF16)
    learner.save(tmp_path)
    exact = make_learner(tiny_llama(seed=5))
    exact.load(tmp_path)
    with learner.rounded_steps.exact():
        for (name, one), (_, two) in zip(learner._parameters("policy"), exact._parameters("policy"), strict=True):
            assert torch.equal(one, two), name
    assert not all(on_grid(tensor) for _, tensor in exact.weights())
