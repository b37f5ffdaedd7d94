"""Extreme numbers in one step with the real credit, advantage, learner and metrics: the results, and the errors and
logs."""

import math

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.advantage.separate import Separate
from dqo.advantage.unbiased import Unbiased
from dqo.credit.dpp import Quality
from dqo.errors import StageError
from dqo.metrics.training import describe
from dqo.records import Rewards
from tests.credit.builders import dpp
from tests.credit.groups import unit_vectors
from tests.factories import make_rollouts, tiny_llama
from tests.helpers.single_step import Given, step_of
from tests.learner.builders import adamw, clip, learn, make_learner

WORDS = ["w1 w2", "w3", "w4", "w5 w6"]
GROUPWISE = Joint(scale_rewards=ScaleRewards.group)


def given(rewards, *, texts=None, valid=None, embeddings_PKD=None, finished=None) -> Given:
    total_PK = torch.tensor(rewards, dtype=torch.float32)
    prompts, k = total_PK.shape
    valid_PK = torch.ones(prompts, k, dtype=torch.bool) if valid is None else torch.tensor(valid)
    texts = WORDS * prompts if texts is None else texts
    return Given(
        rollouts=make_rollouts(texts, k, finished=finished),
        rewards=Rewards(total_PK=total_PK, parts={"check": total_PK}, correct_PK=total_PK > 0, valid_PK=valid_PK),
        embeddings_PKD=unit_vectors(prompts, k, 6) if embeddings_PKD is None else embeddings_PKD,
    )


def outcome(one: Given, advantage=GROUPWISE, **learner):
    """Advantages (P, k), gradient norm (0.0 without an optimizer step) and metrics."""
    step, gradients = step_of(one, credit=dpp(), advantage=advantage, **learner)
    advantages_B = step.targets.advantages_BT.sum(1) / step.experience.rollouts.sampled_BT.sum(1)
    metrics = describe(step, 1.0)
    norm = float(torch.stack([g.norm() for g in gradients[0].values()]).norm()) if gradients else 0.0
    return advantages_B.view(-1, one.rollouts.k), norm, metrics


@pytest.mark.parametrize("kind", [Joint, Separate])
@pytest.mark.parametrize("scale", [ScaleRewards.group, ScaleRewards.batch])
def test_a_reward_of_1e30_is_normalized_without_overflow(kind, scale):
    """The square of 1e30 is infinite in float32: all advantages would be 0."""
    huge, norm, metrics = outcome(given([[1e30, 0, 0, 0]]), kind(scale_rewards=scale))
    usual, _, _ = outcome(given([[1e6, 0, 0, 0]]), kind(scale_rewards=scale))
    torch.testing.assert_close(huge, usual, atol=1e-5, rtol=0)
    assert huge.abs().max() > 0.5 and norm > 0
    assert metrics["reward_std"] == pytest.approx(5e29, rel=1e-6)


@pytest.mark.parametrize("advantage", [Joint(scale_rewards=ScaleRewards.none), Unbiased(baseline_decay=0.9)])
def test_a_reward_of_1e30_without_normalization_stops_before_the_optimizer_step(advantage):
    with pytest.raises(StageError, match=r"\[learner, step 1, prompts 0\] the gradient is not finite.*advantage: [17]"):
        outcome(given([[1e30, 0, 0, 0]]), advantage)


def test_credits_count_beside_large_tied_rewards():
    large, _, metrics = outcome(given([[1e8] * 4]))
    usual, _, _ = outcome(given([[0.0] * 4]))
    torch.testing.assert_close(large, usual, atol=1e-5, rtol=0)
    assert usual.abs().max() > 0.5 and metrics["frac_score_zero_std"] == 0


@pytest.mark.parametrize("texts", [[""] * 4, ["w1"] * 4], ids=["empty", "identical"])
def test_a_collapsed_group_has_zero_gradient(texts):
    """Credits of identical completions differ by 1e-7: Adam would turn this rounding noise into a full-size step."""
    same_PKD = unit_vectors(2, 1, 384).expand(2, 4, 384)
    advantages, norm, metrics = outcome(given([[1.0] * 4, [0.0] * 4], texts=texts * 2, embeddings_PKD=same_PKD))
    assert not advantages.any() and norm == 0
    assert metrics["completions/distinct"] == 1 and metrics["frac_score_zero_std"] == 1
    assert metrics["credit"] == pytest.approx(0.0 if not any(texts) else math.log(1 + 1 / 4))  # empty: nothing


def test_a_group_with_one_valid_completion_has_zero_advantage():
    valid = [[False, True, False, False], [True] * 4]
    advantages, norm, metrics = outcome(given([[0, 1.0, 0, 0], [1.0, 0, 0, 1.0]], valid=valid))
    assert not advantages[0].any() and advantages[1].all() and norm > 0
    assert metrics["frac_reward_zero_std"] == 0.5 and metrics["invalid"] == 3
    alone, _, _ = outcome(given([[1.0, 0, 0, 1.0]], embeddings_PKD=unit_vectors(2, 4, 6)[1:]))
    torch.testing.assert_close(advantages[1:], alone, atol=0, rtol=0)


def test_a_step_without_a_valid_completion_is_skipped_and_logged(caplog):
    one = given([[0.0] * 4] * 2, valid=[[False] * 4] * 2, finished=[False] * 8)
    advantages, norm, metrics = outcome(one)
    assert not advantages.any() and norm == 0
    assert (metrics["skipped_updates"], metrics["invalid"], metrics["trained_tokens"]) == (1, 8, 0)
    assert metrics["completions/clipped_ratio"] == 1 and math.isnan(metrics["reward"]) and math.isnan(metrics["loss"])
    assert "step 1: no valid completion, no update" in caplog.text


def test_a_policy_with_nan_weights_stops_before_the_optimizer_step():
    policy = tiny_llama()
    with torch.no_grad():
        policy.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    learner = make_learner(policy, optim=adamw(), shared_prompt=False)
    one = given([[1.0, 0, 0, 0]])
    step, _ = step_of(one, credit=dpp(), advantage=GROUPWISE)
    estimates = learner.estimate(one.rollouts)
    with pytest.raises(StageError, match=r"\[learner, step 1, prompts 0\] the loss is not finite"):
        learner.update(step.experience, estimates, step.targets)
    assert not any(optimizer.state for optimizer in learner.optimizers.values())


def test_a_reference_with_infinite_weights_stops_before_the_optimizer_step():
    """The reference enters the loss through the KL term."""
    learner = make_learner(tiny_llama(), optim=adamw(), loss=clip(beta=0.1), shared_prompt=False)
    with torch.no_grad(), learner.reference.model() as reference:
        reference.lm_head.weight[5] = math.inf
    one = given([[1.0, 0, 0, 0]])
    step, _ = step_of(one, credit=dpp(), advantage=GROUPWISE)
    with pytest.raises(StageError, match=r"the loss is not finite"):
        learn(learner, step.experience)


def test_a_kernel_that_is_not_positive_definite_is_an_error_with_step_and_prompts():
    same_PKD = unit_vectors(2, 1, 6).expand(2, 4, 6)
    one = given([[0.0] * 4, [16.0] * 4], embeddings_PKD=same_PKD)
    with pytest.raises(
        StageError, match=r"\[credit, step 1, prompts 1\] the kernel is not positive definite in float32"
    ):
        step_of(one, credit=dpp(quality=Quality.reward), advantage=GROUPWISE)
