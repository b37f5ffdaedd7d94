from dataclasses import replace

import pytest
import torch

from dqo.advantage.flowrl import FlowRL
from dqo.advantage.groups.credit_part import NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards
from dqo.loss.clip import LossType
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion
from tests.factories import make_loss_inputs
from tests.learner.builders import clip

TEXTS = ["w1", "w2 w3", "w4 w5 w6", "w7", "w1 w2 w3 w4", "w5 w6"]  # lengths differ
REWARDS, CREDITS = [[1.0, 0, 0], [0.25, 2, 1]], [[0.1, 0.2, 0.3], [0.4, 0.2, 0.2]]


def flowrl(scale=ScaleRewards.group, weight=0.7):
    return FlowRL(flow_beta=15.0, weight=weight, scale_rewards=scale, normalize_credit=NormalizeCredit.none)


def given(rewards=REWARDS, valid=None, seed=0):
    """(experience, reference's log-probabilities); the sampler's are random."""
    experience = experience_of(rewards, CREDITS, valid, texts=TEXTS)
    rollouts, generator = experience.rollouts, torch.Generator().manual_seed(seed)
    drawn = [
        -torch.rand(rollouts.tokens_BT.shape, generator=generator).masked_fill(~rollouts.sampled_BT, 0.0)
        for _ in range(2)
    ]
    return replace(experience, rollouts=replace(rollouts, logprobs_BT=drawn[0])), drawn[1]


@pytest.mark.parametrize("scale", ScaleRewards)
def test_the_losss_gradient_is_that_of_the_squared_balance(scale):
    """By autograd through weight * mean over completions of (log Z + mean log π - β s - mean log π_ref)², log Z such
    that the balance has the mean 0 in a group; and through the clipped loss, whose tokens weigh 1 / length."""
    experience, ref_BT = given()
    rollouts, sampled_BT, lengths_B = (
        experience.rollouts,
        experience.rollouts.sampled_BT,
        experience.rollouts.sampled_BT.sum(1),
    )
    scores_PK = experience.rewards.total_PK + 2.0 * experience.credits_PK
    centred_PK = scores_PK - scores_PK.mean(1, keepdim=True)
    if scale == ScaleRewards.group:
        centred_PK = centred_PK / (scores_PK.std(1, keepdim=True) + 1e-4)
    if scale == ScaleRewards.batch:
        centred_PK = centred_PK / (scores_PK.std() + 1e-4)

    squared_BT = rollouts.logprobs_BT.clone().requires_grad_()
    means_PK = ((squared_BT - ref_BT) * sampled_BT).sum(1).div(lengths_B).view(2, 3)
    log_z_P1 = (15.0 * centred_PK - means_PK).mean(1, keepdim=True).detach()
    (0.7 * (log_z_P1 + means_PK - 15.0 * centred_PK).square().mean()).backward()

    targets = flowrl(scale)(experience, Estimates(ref_logprobs_BT=ref_BT), alpha=2.0)
    loss, valid_B = clip(loss_type=LossType.grpo), torch.ones(6, dtype=torch.bool)
    weights_BT = loss.token_weights(sampled_BT, valid_B, rows=6, tokens=int(sampled_BT.sum()))
    policy_BT = rollouts.logprobs_BT.clone().requires_grad_()
    value, _ = loss(
        make_loss_inputs(
            policy_BT[sampled_BT], advantages_N=targets.advantages_BT[sampled_BT], weights_N=weights_BT[sampled_BT]
        )
    )
    value.backward()
    torch.testing.assert_close(policy_BT.grad, squared_BT.grad, atol=1e-5, rtol=1e-5)


def test_the_policy_before_the_update_is_preferred_to_the_sampler():
    experience, ref_BT = given()
    tied = replace(experience, rewards=replace(experience.rewards, total_PK=torch.zeros(2, 3)))
    same = Estimates(ref_logprobs_BT=ref_BT, old_logprobs_BT=ref_BT)
    assert flowrl()(tied, same, alpha=0.0).advantages_BT.eq(0).all()
    assert flowrl()(tied, Estimates(ref_logprobs_BT=ref_BT), alpha=0.0).advantages_BT.abs().max() > 0.1


def test_masked_and_lone_completions_get_0_and_are_left_out():
    valid = [[True, True, False], [True, False, False]]
    experience, ref_BT = given(valid=valid)
    other = experience.rollouts.logprobs_BT.clone()
    other[2], other[4:] = torch.nan, torch.nan
    broken = replace(experience, rollouts=replace(experience.rollouts, logprobs_BT=other))
    found = [
        per_completion(each, flowrl()(each, Estimates(ref_logprobs_BT=ref_BT), alpha=1.0).advantages_BT)
        for each in (experience, broken)
    ]
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    assert found[0][0, 2] == 0
    assert found[0][1].eq(0).all()
    torch.testing.assert_close(found[0][0, 0], -found[0][0, 1])


def test_a_group_of_two_or_more_has_a_signal_since_log_probabilities_can_differ():
    assert flowrl().has_signal(given([[1.0, 1, 1], [1, 1, 1]])[0], alpha=0.0)
    lone = given(valid=[[True, False, False], [False, False, False]])[0]
    assert not flowrl().has_signal(lone, alpha=1.0)
    assert FlowRL.needs_reference
