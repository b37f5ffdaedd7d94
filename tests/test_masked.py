"""The values of a masked completion have no effect on other completions' credits and advantages, gradients or metrics.

The loop, credits, advantages, loss and learner are real; rollouts, rewards and embeddings are given.
"""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.advantage.separate import Separate
from dqo.advantage.unbiased import Unbiased
from dqo.credit.distance import Distance, Metric
from dqo.credit.gating.gate import Gate, Gating
from dqo.evaluation import evaluate
from dqo.loss.clip import LossType
from dqo.metrics.training import describe
from dqo.records import Rewards, Step
from tests.credit.builders import dpp
from tests.credit.groups import unit_vectors
from tests.factories import make_rollouts
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.single_step import Given, step_of
from tests.learner.builders import assert_same, clip

TEXTS = ["w1 w2", "w3", "w1 w2", "w4 w5 w6", "w7", "w8 w9", "w9 w8", "w1", "w2", "w3", "w4", "w5 w6"]
MASKED = torch.tensor([[False, True, False, False], [True, False, True, True], [True, True, True, True]])
# metrics of everything that was sampled, masked or not
OF_SAMPLING = {f"completions/{name}" for name in ("mean_length", "min_length", "max_length")} | {"num_tokens"}


def given(texts=TEXTS) -> Given:
    total_PK = torch.tensor([[1.0, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 0, 0]]).masked_fill(MASKED, 0.0)
    rewards = Rewards(
        total_PK=total_PK, parts={"check": total_PK}, correct_PK=total_PK > 0.7, valid_PK=~MASKED
    )  # fmt: skip
    return Given(rollouts=make_rollouts(texts, 4), rewards=rewards, embeddings_PKD=unit_vectors(3, 4, 6))


def with_garbage(one: Given) -> Given:
    """The same with other values or NaN wherever a completion is masked; only its length stays the same."""
    masked_B1 = MASKED.view(-1, 1)
    rollouts, rewards = one.rollouts, one.rewards
    sampled_BT = rollouts.sampled_BT & masked_B1
    texts = ["\x00 rude words" if out else text for out, text in zip(MASKED.flatten(), rollouts.texts, strict=True)]
    return Given(
        rollouts=replace(
            rollouts,
            tokens_BT=torch.where(sampled_BT, 61 - rollouts.tokens_BT, rollouts.tokens_BT),
            logprobs_BT=rollouts.logprobs_BT.masked_fill(sampled_BT, math.nan),
            texts=tuple(texts),
        ),
        rewards=replace(
            rewards,
            total_PK=rewards.total_PK.masked_fill(MASKED, math.nan),
            parts={"check": rewards.parts["check"].masked_fill(MASKED, 1e30)},
            correct_PK=rewards.correct_PK | MASKED,
        ),
        embeddings_PKD=one.embeddings_PKD.masked_fill(MASKED[..., None], math.nan),
    )


def metrics_of(step: Step) -> dict[str, float]:
    timed = ("seconds/", "tokens_per_second/", "step_time")
    return {key: value for key, value in describe(step, 1.0).items() if not key.startswith(timed)}


CREDITS = {
    "dpp": lambda: dpp(),
    "dpp correct": lambda: dpp(gate=Gate.correct),
    "distance": lambda: Distance(metric=Metric.euclidean, gating=Gating(gate=Gate.none, threshold=None)),
}
ADVANTAGES = {
    "joint": lambda: Joint(scale_rewards=ScaleRewards.group),
    "joint batch": lambda: Joint(scale_rewards=ScaleRewards.batch),
    "separate": lambda: Separate(scale_rewards=ScaleRewards.batch),
    "unbiased": lambda: Unbiased(baseline_decay=0.9),
}


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("advantage", ADVANTAGES)
def test_masked_values_change_nothing_else(credit, advantage):
    one, other = (
        step_of(
            each, credit=CREDITS[credit](), advantage=ADVANTAGES[advantage](), loss=clip(beta=0.1), num_iterations=2
        )
        for each in (given(), with_garbage(given()))
    )
    assert torch.equal(one[0].experience.credits_PK, other[0].experience.credits_PK)
    assert torch.equal(one[0].targets.advantages_BT, other[0].targets.advantages_BT)
    assert one[0].targets.advantages_BT.abs().sum() > 0
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert_same(mine, theirs, atol=0)
    assert metrics_of(one[0]) == pytest.approx(metrics_of(other[0]), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("loss_type", LossType)
def test_a_masked_completions_length_changes_only_metrics_of_sampling(loss_type):
    texts = ["w1 " * 9 if out else text for out, text in zip(MASKED.flatten(), TEXTS, strict=True)]
    settings = {"loss": clip(loss_type=loss_type)}
    (short, mine), (long, theirs) = (
        step_of(given(each), credit=dpp(), advantage=Joint(scale_rewards=ScaleRewards.none), **settings)
        for each in (TEXTS, texts)
    )
    assert_same(mine[0], theirs[0], atol=0)
    one, other = metrics_of(short), metrics_of(long)
    different = {key for key in one if one[key] != other[key] and not (math.isnan(one[key]) and math.isnan(other[key]))}
    assert different <= OF_SAMPLING
    assert "completions/mean_length" in different


def test_an_evaluation_ignores_embeddings_of_invalid_completions():
    """The text "broken" is invalid."""
    texts = {0: ["Paris", "broken", "Lima", "broken"], 1: ["so so", "broken", "broken", "broken"]}
    stages, prompts = scripted_stages(texts)
    whole = evaluate(stages, prompts, n=4, seed=0, families=OF_TRAINING).metrics

    @dataclass
    class NanForInvalid:
        """An encoder that returns NaN for invalid completions."""

        embed: object

        def encode(self, rollouts):
            broken_PK = torch.tensor([text == "broken" for text in rollouts.texts]).view(-1, rollouts.k)
            return self.embed.encode(rollouts).masked_fill(broken_PK[..., None], math.nan)

    replaced = replace(stages, embed=NanForInvalid(stages.embed))
    other = evaluate(replaced, prompts, n=4, seed=0, families=OF_TRAINING).metrics
    assert other == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    assert whole["cosine_distance"] == 1.0  # between Paris and Lima; the second prompt has only one valid answer
    assert whole["logdet"] == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert whole["distinct_1"] == 1.0  # undefined for the second prompt, which has only one valid text
