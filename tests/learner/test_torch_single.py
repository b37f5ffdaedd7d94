import math
from dataclasses import replace

import pytest
import torch

from dqo.batching import join, split
from dqo.errors import ConfigError, StageError
from dqo.loss.clip import Level, LossType
from dqo.models.precision import Dtype
from dqo.optim.adamw import Schedule
from dqo.records import Estimates
from dqo.stages import Learner
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    CPU,
    Recorder,
    adamw,
    assert_same,
    clip,
    gradient,
    learn,
    make_learner,
    targets_of,
    tiny_qwen2,
)


@pytest.fixture
def experience():
    return make_experience(prompts=3, k=4)


def masked(experience, *rows: int):
    """The given completions are invalid."""
    valid_PK = torch.ones_like(experience.rewards.valid_PK)
    valid_PK.view(-1)[list(rows)] = False
    return replace(experience, rewards=replace(experience.rewards, valid_PK=valid_PK))


def counted(policy) -> list[int]:
    """Grows by one with every forward pass of the policy."""
    calls: list[int] = []
    policy.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return calls


def by_definition(policy, experience, alpha: float = 1.0):
    """The policy's gradient of -sum A log pi / tokens, a row at a time."""
    targets, rollouts = targets_of(experience, alpha=alpha), experience.rollouts
    valid_B = experience.rewards.valid_PK.flatten()
    tokens = int(rollouts.sampled_BT[valid_B].sum())
    policy.zero_grad()
    for row in valid_B.nonzero()[:, 0].tolist():
        logprobs_TV = policy(input_ids=rollouts.tokens_BT[row : row + 1]).logits[0, :-1].log_softmax(-1)
        logprobs_T = logprobs_TV.gather(1, rollouts.tokens_BT[row, 1:, None])[:, 0]
        (-(logprobs_T * targets.advantages_BT[row, 1:]).sum() / tokens).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters()}


def test_it_is_a_learner(policy):
    assert isinstance(make_learner(policy), Learner)


@pytest.mark.parametrize("make_policy", [tiny_llama, tiny_qwen2])
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_the_gradient_is_the_definitions(make_policy, shared_prompt, experience):
    expected = by_definition(make_policy(), experience)
    assert_same(gradient(make_policy(), experience, shared_prompt=shared_prompt), expected, atol=1e-5)
    assert max(part.abs().max() for part in expected.values()) > 0.01


@pytest.mark.parametrize("loss_type", LossType)
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("shared_prompt", [True, False])
def test_how_a_step_is_cut_does_not_matter(loss_type, level, shared_prompt, experience):
    """One batch of 12 rows against 12 of one, a masked one among them."""
    experience = masked(experience, 2, 7)
    one, many = (
        gradient(
            tiny_llama(),
            experience,
            loss=clip(loss_type=loss_type, level=level, beta=0.1),
            budget=budget,
            shared_prompt=shared_prompt,
        )
        for budget in (1000, 1)
    )
    assert_same(one, many, atol=1e-6)


def test_the_order_of_groups_does_not_matter(experience):
    groups = split(experience)
    assert_same(
        gradient(tiny_llama(), experience), gradient(tiny_llama(), join([groups[2], groups[0], groups[1]])), atol=1e-6
    )


def test_padding_behind_the_rows_does_not_matter(experience):
    rollouts = experience.rollouts
    wider = {
        name: torch.nn.functional.pad(getattr(rollouts, name), (0, 5))
        for name in ("tokens_BT", "sampled_BT", "logprobs_BT")
    }
    assert_same(
        gradient(tiny_llama(), experience),
        gradient(tiny_llama(), replace(experience, rollouts=replace(rollouts, **wider))),
        atol=0,
    )


def test_masked_completions_are_as_good_as_absent(experience):
    """The advantage is given: only what the learner does with it is compared."""
    whole = masked(experience, *range(8, 12))
    first_two = join(split(experience)[:2])
    assert_same(gradient(tiny_llama(), whole), gradient(tiny_llama(), first_two), atol=1e-6)


def test_checkpointing_changes_nothing(experience):
    assert_same(
        gradient(tiny_llama(), experience),
        gradient(tiny_llama(), experience, gradient_checkpointing=True),
        atol=1e-7,
    )


def test_dropout_is_off_even_where_checkpointing_needs_training_mode(experience):
    def noisy():
        policy = tiny_llama()
        for layer in policy.model.layers:
            layer.self_attn.attention_dropout = 0.5
        return policy

    assert_same(
        gradient(noisy(), experience, gradient_checkpointing=True), gradient(tiny_llama(), experience), atol=1e-7
    )


def test_a_report_says_what_was_done(policy, experience):
    learner = make_learner(policy, loss=clip(beta=0.1), optim=adamw(learning_rate=1e-3), budget=40)
    report = learn(learner, masked(experience, 0))
    tokens = int(experience.rollouts.sampled_BT[1:].sum())
    assert report["trained_tokens"] == tokens
    assert report["learning_rate"] == 1e-3
    assert report["kl"] == 0
    assert report["skipped_updates"] == 0
    assert report["micro_batches"] == 3
    assert 0 < report["entropy"] < math.log(63)
    assert report["grad_norm"] > 0
    assert 0 <= report["padding_share"] < 0.5
    assert {"loss", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"} < report.keys()


def test_the_reported_gradient_norm_is_that_before_clipping(experience):
    free, clipped = Recorder(), Recorder(max_grad_norm=0.01)
    reports = [learn(make_learner(tiny_llama(), optim=optim), experience) for optim in (free, clipped)]
    norms = [torch.stack([g.norm() for g in optim.gradients[0].values()]).norm().item() for optim in (free, clipped)]
    assert [report["grad_norm"] for report in reports] == pytest.approx([norms[0], norms[0]])
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(0.01, rel=1e-3)


def test_what_is_rewarded_becomes_likelier(policy, experience):
    learner = make_learner(policy, optim=adamw(learning_rate=3e-3))
    targets = targets_of(experience)
    probe = make_learner(policy, num_iterations=2)  # computes old log-probabilities

    def weighed():
        return float((probe.estimate(experience.rollouts).old_logprobs_BT * targets.advantages_BT).sum())

    before = weighed()
    for _ in range(5):
        learner.update(experience, Estimates(), targets)
    assert weighed() > before + 1


def test_one_iteration_runs_one_pass_a_micro_batch_and_no_other(policy, experience):
    learner = make_learner(policy, budget=40)
    calls = counted(policy)
    report = learn(learner, experience)
    assert len(calls) == report["micro_batches"] > 1


def test_several_iterations_compute_the_old_logprobs_once(policy, experience):
    learner = make_learner(policy, budget=40, num_iterations=3, optim=adamw(learning_rate=0.01))
    calls = counted(policy)
    report = learn(learner, experience)
    assert len(calls) == 4 * report["micro_batches"]
    assert report["clip_ratio/region_mean"] > 0  # the ratios have left 1
    assert {int(state["step"]) for state in learner.optimizers["policy"].state.values()} == {3}


def test_without_beta_the_reference_never_runs(policy, experience):
    assert make_learner(policy).estimate(experience.rollouts) == Estimates()
    assert make_learner(policy).reference is None


def test_the_reference_stays_where_the_policy_was(experience):
    learner = make_learner(tiny_llama(), loss=clip(beta=0.1), optim=adamw(learning_rate=0.01))
    before = learner.estimate(experience.rollouts)
    assert before.old_logprobs_BT is None
    assert before.ref_logprobs_BT.eq(0).equal(~experience.rollouts.sampled_BT)
    reports = [learn(learner, experience) for _ in range(3)]
    assert torch.equal(learner.estimate(experience.rollouts).ref_logprobs_BT, before.ref_logprobs_BT)
    assert reports[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert reports[2]["kl"] > 1e-3


def test_stale_rows_take_the_samplers_logprobs(experience):
    """Rows of group 0 were sampled one version ago: their ratios are against what the sampler said."""
    learner = make_learner(tiny_llama(), optim=Recorder(), loss=clip())
    learn(learner, experience)  # version 1 now, weights unchanged
    own_BT = make_learner(tiny_llama(), num_iterations=2).estimate(experience.rollouts).old_logprobs_BT
    versions_B = torch.tensor([0] * 4 + [1] * 8)
    sampler_BT = torch.where(experience.rollouts.sampled_BT, own_BT - 1.0, 0.0)
    rollouts = replace(experience.rollouts, versions_B=versions_B, logprobs_BT=sampler_BT)
    report = learn(learner, replace(experience, rollouts=rollouts))
    # a ratio of e is clipped where the advantage is positive, and no other
    sampled_BT, advantages_BT = rollouts.sampled_BT, targets_of(experience).advantages_BT
    clipped = int((advantages_BT[:4] > 0).sum())
    assert 0 < clipped < int(sampled_BT[:4].sum())
    assert report["clip_ratio/high_mean"] == pytest.approx(clipped / int(sampled_BT.sum()))


def test_nothing_valid_is_a_reported_skip(policy, experience, caplog):
    learner = make_learner(policy, optim=adamw())
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    report = learn(learner, masked(experience, *range(12)))
    assert_same(before, dict(learner.weights()), atol=0)
    assert (report["skipped_updates"], report["micro_batches"], report["trained_tokens"]) == (1, 0, 0)
    assert math.isnan(report["loss"])
    assert learner.version == 1
    assert "step 1: no valid completion" in caplog.text
    assert report.keys() == learn(learner, experience).keys()


def test_the_rate_follows_the_steps_of_the_run(policy, experience):
    learner = make_learner(policy, optim=adamw(learning_rate=1e-3, schedule=Schedule.linear, steps=4), num_iterations=2)
    rates = [
        learn(learner, batch)["learning_rate"] for batch in (experience, masked(experience, *range(12)), experience)
    ]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.5e-3])
    assert learner.optimizers["policy"].param_groups[0]["lr"] == pytest.approx(0.5e-3)


def test_a_loss_that_is_not_finite_stops_before_the_step(policy, experience):
    learner = make_learner(policy, budget=40)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    targets = targets_of(experience)
    advantages_BT = torch.where(
        (torch.arange(12)[:, None] == 5) & experience.rollouts.sampled_BT, math.nan, targets.advantages_BT
    )
    with pytest.raises(StageError, match=r"\[learner, step 1, prompts 1\] the loss is not finite"):
        learner.update(experience, Estimates(), replace(targets, advantages_BT=advantages_BT))
    assert_same(before, dict(learner.weights()), atol=0)
    assert not learner.optimizers["policy"].state


def test_a_gradient_that_is_not_finite_stops_before_the_step_and_names_the_micro_batch(policy, experience):
    learner = make_learner(policy, budget=40)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    prompt = torch.tensor(experience.rollouts.prompts[2].tokens)

    def poison(module, inputs, output):
        if (inputs[0][:, : len(prompt)] == prompt).all(1).any():
            output.register_hook(lambda grad: grad * math.inf)

    policy.get_input_embeddings().register_forward_hook(poison)
    with pytest.raises(StageError, match=r"\[learner, step 1, prompts 2\] the gradient is not finite"):
        learn(learner, experience)
    assert_same(before, dict(learner.weights()), atol=0)
    assert not learner.optimizers["policy"].state


def test_bf16_differs_from_fp32_by_its_rounding(experience):
    exact, rounded = (gradient(tiny_llama(), experience, dtype=dtype) for dtype in (Dtype.FLOAT32, Dtype.BFLOAT16))
    for name in exact:
        error = (exact[name] - rounded[name]).norm() / exact[name].norm()
        assert 1e-4 < error < 0.1, name


def test_bf16_is_chosen_where_the_device_has_it(policy):
    assert make_learner(policy, dtype=Dtype.AUTO).bf16 == (Dtype.AUTO.on(CPU) == torch.bfloat16)


def test_float16_is_refused(policy):
    with pytest.raises(ConfigError, match=r"^learner\.dtype=float16: .*type learner\.dtype="):
        make_learner(policy, dtype=Dtype.FLOAT16)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_spell_out_the_head(tied, experience):
    policy = tiny_llama(tied=tied)
    learner = make_learner(policy)
    learn(learner, experience)
    fresh = tiny_llama(tied=tied, seed=1)
    fresh.load_state_dict(dict(learner.weights()))
    tokens = experience.rollouts.tokens_BT
    assert torch.equal(fresh(input_ids=tokens).logits, policy(input_ids=tokens).logits)
    assert "lm_head.weight" in dict(learner.weights())
    assert not any(tensor.requires_grad for _, tensor in learner.weights())
