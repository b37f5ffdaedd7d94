import math

import pytest
import torch

from dqo.errors import ConfigError
from dqo.optim.adamw import AdamW, Schedule
from tests.factories import tiny_llama


def adamw(
    *,
    learning_rate: float = 0.1,
    adam_beta1: float = 0.9,
    adam_beta2: float = 0.999,
    adam_epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    schedule: Schedule = Schedule.constant,
    warmup_steps: int = 0,
    steps: int = 10,
) -> AdamW:
    return AdamW(
        learning_rate=learning_rate,
        adam_beta1=adam_beta1,
        adam_beta2=adam_beta2,
        adam_epsilon=adam_epsilon,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        lr_scheduler_type=schedule,
        warmup_steps=warmup_steps,
        steps=steps,
    )


@pytest.mark.parametrize(
    ("schedule", "warmup_steps", "expected"),
    [
        (Schedule.constant, 0, {0: 1, 9: 1}),
        (Schedule.constant_with_warmup, 4, {0: 0, 1: 1 / 4, 4: 1, 9: 1}),
        (Schedule.linear, 0, {0: 1, 5: 1 / 2, 9: 1 / 10, 10: 0}),
        (Schedule.linear, 2, {1: 1 / 2, 2: 1, 6: 1 / 2}),
        (Schedule.cosine, 0, {0: 1, 5: 1 / 2, 10: 0}),
        (Schedule.cosine, 2, {1: 1 / 2, 4: (1 + math.cos(math.pi / 4)) / 2}),
        (Schedule.inverse_sqrt, 4, {2: 1 / 2, 4: 1, 16: 1 / 2}),
    ],
)
def test_the_rate_follows_the_schedule(schedule, warmup_steps, expected):
    optim = adamw(schedule=schedule, warmup_steps=warmup_steps)
    for step, factor in expected.items():
        assert optim.rate(step) == pytest.approx(0.1 * factor, abs=1e-9)


def test_one_step_equals_a_hand_computed_one():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optim = adamw(weight_decay=0.5, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=0.25)
    optimizer = optim.make([("layer.weight", weight)])
    weight.grad = torch.tensor([3.0, -4.0])
    optimizer.step()
    # the first step's bias-corrected moments are the gradient and its square
    decayed = torch.tensor([1.0, -2.0]) * (1 - 0.1 * 0.5)
    torch.testing.assert_close(weight.detach(), decayed - 0.1 * torch.tensor([3 / 3.25, -4 / 4.25]))


def test_norms_and_biases_do_not_decay_and_frozen_parameters_are_left_out():
    policy = tiny_llama()
    parameters = dict(policy.named_parameters())
    parameters["model.layers.0.self_attn.q_proj.bias"] = torch.nn.Parameter(torch.zeros(64))
    parameters["model.layers.0.self_attn.q_norm.weight"] = torch.nn.Parameter(torch.zeros(16))
    parameters["model.embed_tokens.weight"].requires_grad_(False)
    optimizer = adamw(weight_decay=0.1).make(parameters.items())
    names = {parameter: name for name, parameter in parameters.items()}
    decay, no_decay = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all("proj.weight" in name for name in decay)
    assert no_decay == {
        "model.norm.weight", "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight",
        *(f"model.layers.{i}.{norm}_layernorm.weight" for i in range(2) for norm in ("input", "post_attention")),
    }  # fmt: skip
    assert len(decay) + len(no_decay) == len(parameters) - 1


def test_a_schedule_without_a_warm_up_refuses_one():
    with pytest.raises(ConfigError, match=r"^optim\.warmup_steps=5: .*type optim\.lr_scheduler_type="):
        adamw(warmup_steps=5, schedule=Schedule.constant)
