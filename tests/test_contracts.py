"""Stages of the user's that hand on what they should not: stopped at once, with stage, step and prompts."""

import math
from dataclasses import replace

import pytest
import torch

from dqo.contracts import check_embeddings, check_rewards, checked_credits, checked_token_credits, refuse_negative
from dqo.errors import StageError
from dqo.evaluation import evaluate
from dqo.loop import train
from dqo.stages import Stages
from tests.factories import make_prompts, make_rewards, make_rollouts
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.toy_stages import (
    PLAN,
    EvenReward,
    OneHotEmbed,
    RareCredit,
    toy_stages,
)

ALL = torch.ones(2, 2, dtype=torch.bool)
FIRST = torch.tensor([[True, True], [True, False]])
ROLLOUTS = make_rollouts(["w1", "w2", "w3", "w4"], 2, prompts=make_prompts(9)[7:])
UNIT_PKD = torch.eye(4).view(2, 2, 4)


@pytest.fixture
def stages() -> Stages:
    return toy_stages()


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_total_that_is_not_finite_names_its_prompt_unless_it_is_masked(number):
    rewards = make_rewards([[1, 2], [3, number]], valid=ALL)
    with pytest.raises(StageError, match=r"\[reward, prompts 8\] the total is not finite for 'w4'"):
        check_rewards(ROLLOUTS, rewards)
    check_rewards(ROLLOUTS, replace(rewards, valid_PK=FIRST))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_not_finite_names_its_prompt_unless_it_is_masked(number):
    logprobs_BT = ROLLOUTS.logprobs_BT.clone()
    logprobs_BT[3, ROLLOUTS.sampled_BT[3]] = number
    rollouts, rewards = replace(ROLLOUTS, logprobs_BT=logprobs_BT), make_rewards([[1, 2], [3, 4]], valid=ALL)
    with pytest.raises(StageError, match=r"\[rollout, prompts 8\] a sampled token's log-probability is not finite"):
        check_rewards(rollouts, rewards)
    check_rewards(rollouts, replace(rewards, valid_PK=FIRST))


@pytest.mark.parametrize("number", [math.nan, math.inf, 0.0, 7.0])
def test_an_embedding_without_unit_length_names_its_prompt_unless_it_is_masked(number):
    embeddings_PKD = UNIT_PKD.clone()
    embeddings_PKD[1, 1] = number
    with pytest.raises(StageError, match=r"\[embed, prompts 8\] no finite embedding of length 1 for 'w4'"):
        check_embeddings(ROLLOUTS, ALL, embeddings_PKD)
    check_embeddings(ROLLOUTS, FIRST, embeddings_PKD)


def test_credits_of_masked_completions_are_nothing_and_others_are_finite():
    credits_PK = torch.tensor([[0.1, 0.2], [0.3, math.nan]])
    assert checked_credits(ROLLOUTS, FIRST, credits_PK).tolist() == torch.tensor([[0.1, 0.2], [0.3, 0.0]]).tolist()
    with pytest.raises(StageError, match=r"\[credit, prompts 8\] the credit is not finite for 'w4'"):
        checked_credits(ROLLOUTS, ALL, credits_PK)


class RowsShort(OneHotEmbed):
    def encode(self, rollouts):
        return super().encode(rollouts)[:, 1:]


class Flat(OneHotEmbed):
    def encode(self, rollouts):
        return super().encode(rollouts).flatten(0, 1)


class Silent(OneHotEmbed):
    def encode(self, rollouts):
        return super().encode(rollouts) * (rollouts.prompts[0].position != 4)


class ShortCredit(RareCredit):
    def assign(self, rollouts, rewards, embeddings_PKD):
        return super().assign(rollouts, rewards, embeddings_PKD)[:, 1:]


class Doubtful(EvenReward):
    def score(self, rollouts):
        rewards = super().score(rollouts)
        return replace(rewards, total_PK=rewards.total_PK / float(rollouts.prompts[0].position != 4 or math.nan))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed": RowsShort()}, r"\[embed, step 1\] embeddings has the shape \(1, 3\) for 1 prompts × 4 completions"),
        ({"embed": Flat()}, r"\[embed, step 1\] embeddings of shape \(4, 60\): \(prompts, k, dim\) is needed"),
        ({"embed": Silent()}, r"\[embed, step 2, prompts 4\] no finite embedding of length 1 for 'w\d+'"),
        ({"credit": ShortCredit()}, r"\[credit, step 1\] credits has the shape \(1, 3\)"),
        ({"reward": Doubtful()}, r"\[reward, step 2, prompts 4\] the total is not finite"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(next(iter(value.values()))).__name__,
)
@pytest.mark.parametrize("ahead", [0, 1])
def test_the_loop_says_which_step_it_was(stages, changes, message, ahead):
    steps = []
    with pytest.raises(StageError, match=message) as caught:
        train(replace(stages, **changes), replace(PLAN, ahead=ahead), [lambda step: steps.append(step.number)])
    assert steps == list(range(1, caught.value.step))


def test_an_evaluation_says_that_it_was_one():
    stages, prompts = scripted_stages({0: ["Paris", "Lima"]})

    class Lost:
        def encode(self, rollouts):
            return torch.zeros(1, 2, 4)

    with pytest.raises(
        StageError, match=r"\[embed, prompts 0\] evaluating: no finite embedding of length 1 for 'Paris'"
    ):
        evaluate(replace(stages, embed=Lost()), prompts, n=2, seed=0, families=OF_TRAINING)


def test_credits_of_tokens_count_where_they_were_sampled_and_can_be_earned():
    credits_BT = torch.full(ROLLOUTS.tokens_BT.shape, 2.0).masked_fill(~ROLLOUTS.sampled_BT, math.nan)
    credits_BT[3] = math.inf  # of the completion that earns nothing
    paid_BT = checked_token_credits(ROLLOUTS, FIRST, credits_BT)
    assert torch.equal(paid_BT, 2.0 * (ROLLOUTS.sampled_BT & FIRST.view(-1, 1)))
    assert checked_token_credits(ROLLOUTS, FIRST, None) is None
    with pytest.raises(StageError, match=r"\[credit, prompts 8\] a token's credit is not finite for 'w4'"):
        checked_token_credits(ROLLOUTS, ALL, credits_BT)
    with pytest.raises(StageError, match=r"\[credit\] credits of tokens have the shape \(4, 1\): \(4, 14\) is needed"):
        checked_token_credits(ROLLOUTS, ALL, credits_BT[:, :1])


def test_a_negative_reward_that_counts_is_refused_with_its_prompts():
    rewards = make_rewards([[1, -2], [3, -1]], valid=FIRST)
    with pytest.raises(StageError) as caught:
        refuse_negative("credit", ROLLOUTS, rewards, FIRST, option="credit=dra", remedy="credit=dpp")
    assert str(caught.value) == (
        "[credit, prompts 7] credit=dra needs rewards of at least 0, and one is -2; type credit=dpp"
    )
    refuse_negative("credit", ROLLOUTS, rewards, FIRST & (rewards.total_PK > 0), option="credit=dra", remedy="")
