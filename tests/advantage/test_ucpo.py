import math
from dataclasses import replace

import pytest
import torch

from dqo.advantage.groups.credit_part import CreditKeys
from dqo.advantage.ucpo import Ucpo
from dqo.errors import ConfigError
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion

LOGPROBS = torch.tensor([[-0.5, -1.5, -3.0, -0.1, -2.0]])  # mean over a completion's two tokens


def ucpo(tau=0.2, *, divide_by_std=False):
    return Ucpo(tau=tau, divide_by_std=divide_by_std, credit=CreditKeys())


def given(rewards, credits=None, valid=None, logprobs=LOGPROBS):
    """The two tokens of completion i have log-probabilities of mean ``logprobs[i]``."""
    experience = experience_of(rewards, credits or [[0.0] * len(rewards[0])] * len(rewards), valid)
    rollouts = experience.rollouts
    apart_BT = torch.where(rollouts.tokens_BT == 1, 0.25, -0.25)  # the end token is 1
    logprobs_BT = torch.where(rollouts.sampled_BT, logprobs.flatten()[:, None] + apart_BT, 7.0)
    return replace(experience, rollouts=replace(rollouts, logprobs_BT=logprobs_BT))


def advantages(advantage, experience, alpha=0.0):
    return per_completion(experience, advantage(experience, Estimates(), alpha=alpha).advantages_BT)


@pytest.mark.parametrize("tau", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("divide_by_std", [False, True])
def test_the_gain_is_shared_out_by_the_papers_formula(tau, divide_by_std):
    experience = given([[1, 1, 1, 0, 0]])
    right, wrong = 1 - 3 / 5, -3 / 5
    if divide_by_std:
        std = torch.tensor([1.0, 1, 1, 0, 0]).std().item() + 1e-4
        right, wrong = right / std, wrong / std
    exponentials = [math.exp(logprob) for logprob in LOGPROBS[0, :3].tolist()]
    q = [e / sum(exponentials) for e in exponentials]
    inverse = [1 / each for each in q]
    blended = [right * 3 * ((1 - tau) / 3 + tau * each / sum(inverse)) for each in inverse]
    found = advantages(ucpo(tau, divide_by_std=divide_by_std), experience)
    torch.testing.assert_close(found, torch.tensor([[*blended, wrong, wrong]]), atol=1e-6, rtol=0)
    assert (tau > 0) == (found[0, 0] < found[0, 1] < found[0, 2])  # the least probable one gains most


def test_continuous_rewards_keep_the_sum_over_correct_completions():
    experience = given([[2.0, 0.5, 1.0, 0.0, 0.0]])
    plain, moved = advantages(ucpo(0.0), experience), advantages(ucpo(0.7), experience)
    torch.testing.assert_close(moved[0, :3].sum(), plain[0, :3].sum())
    torch.testing.assert_close(moved[0, 3:], plain[0, 3:])


def test_a_lone_correct_completion_and_groups_without_one_keep_their_advantages():
    experience = given([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], logprobs=LOGPROBS.repeat(3, 1))
    found = advantages(ucpo(0.5), experience)
    torch.testing.assert_close(found, torch.tensor([[0.8, -0.2, -0.2, -0.2, -0.2], [0.0] * 5, [0.0] * 5]))
    assert found[1:].eq(0).all()


def test_masked_completions_are_left_out_whatever_their_log_probabilities():
    valid = [[True, True, False, True, True]]
    broken = LOGPROBS.clone().index_fill(1, torch.tensor([2]), torch.nan)
    smaller = given([[1, 1, 0, 0]], logprobs=LOGPROBS[:, [0, 1, 3, 4]])
    found = ucpo().quality(given([[1, 1, 1, 0, 0]], valid=valid, logprobs=broken))
    assert found[0, 2] == 0
    torch.testing.assert_close(found[:, [0, 1, 3, 4]], ucpo().quality(smaller))


def test_the_credits_deviation_is_added_and_has_signal_sees_both():
    tied = given([[1, 1, 1, 1, 1]], [[0.1, 0.2, 0.3, 0.4, 0.5]])
    torch.testing.assert_close(advantages(ucpo(), tied, alpha=1.0), torch.tensor([[-0.2, -0.1, 0.0, 0.1, 0.2]]))
    assert ucpo().has_signal(tied, alpha=1.0)
    assert not ucpo().has_signal(tied, alpha=0.0)
    assert ucpo().has_signal(given([[1, 1, 0, 0, 0]]), alpha=0.0)


def test_a_reward_that_does_not_say_what_is_correct_is_refused():
    experience = given([[1, 1, 0, 0, 0]])
    silent = replace(experience, rewards=replace(experience.rewards, correct_PK=None))
    with pytest.raises(
        ConfigError, match="advantage=ucpo: this reward does not say which completions are correct; type"
    ):
        advantages(ucpo(), silent)
