"""The values of a masked completion have no effect on other completions' credits and advantages, gradients or metrics.

The loop, credits, advantages, loss and learner are real; rollouts, rewards and embeddings are given.
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch

from dqo.advantage.flowrl import FlowRL
from dqo.advantage.gdpo import Gdpo
from dqo.advantage.groups.credit_part import CreditKeys, NormalizeCredit
from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.groups.subsets import Subsets
from dqo.advantage.joint import Joint
from dqo.advantage.maxrl import MaxRL
from dqo.advantage.pkpo import Baseline, Pkpo
from dqo.advantage.separate import Separate
from dqo.advantage.set import Modes, ProperSubsets, SetAdvantage, SetValue
from dqo.advantage.ucpo import Ucpo
from dqo.advantage.unbiased import Unbiased
from dqo.credit.constant import Constant
from dqo.credit.distance import Distance, Metric
from dqo.credit.dpp import Embedding
from dqo.credit.dpp_steps import DppSteps
from dqo.credit.dra import Dra
from dqo.credit.elliptic import Bonus, Elliptic, Features
from dqo.credit.gapo import Gapo
from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.mmr import Mmr
from dqo.credit.nearest import Nearest
from dqo.credit.ngram import Ngram
from dqo.credit.partition import Form, Partition
from dqo.credit.setpo import SetPO
from dqo.credit.steps.finding import Splitting
from dqo.credit.unlikeliness import Likelihood, Unlikeliness
from dqo.credit.vendi import Vendi
from dqo.embed.fake import Fake
from dqo.evaluation import evaluate
from dqo.loss.clip import LossType
from dqo.loss.terms.clip_cov import ClipCov
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.loss.terms.kl_cov import KlCov
from dqo.loss.terms.kl_sequence import KlSequence
from dqo.loss.terms.replay import Replay
from dqo.loss.terms.top_entropy import TopEntropy
from dqo.metrics.training import describe
from dqo.records import Rewards, Step
from dqo.references import References
from tests.credit.builders import comparison, dpp, gated
from tests.credit.groups import unit_vectors
from tests.factories import make_rollouts, word_tokenizer
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.single_step import Given, step_of
from tests.helpers.toy_stages import CountingTask
from tests.learner.builders import adaptive_entropy, assert_same, clip

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


SPREAD = CreditKeys(normalize_credit=NormalizeCredit.spread)


def set_advantage(f):
    subsets = ProperSubsets(n=2, k=4)
    return SetAdvantage(CountingTask(), f=f, modes=Modes.all, subsets=subsets, divide_by_std=True, credit=SPREAD)


CREDITS = {
    "dpp": lambda: dpp(),
    "dpp correct": lambda: dpp(gate=Gate.correct),
    "dpp centred": lambda: dpp(embedding=Embedding.prompt_centred),
    "dpp steps": lambda: gated(
        partial(DppSteps, embed=Fake(dim=64), tokenizer=word_tokenizer()), steps=Splitting.lines, epsilon=0.001
    ),
    "distance": lambda: Distance(References(), metric=Metric.euclidean, gating=Gating(gate=Gate.none, threshold=None)),
    "setpo": lambda: gated(SetPO),
    "nearest": lambda: gated(Nearest),
    "elliptic": lambda: gated(Elliptic, bonus=Bonus.leverage, features=Features.centred, ridge=0.01),
    "vendi": lambda: gated(Vendi, order=1.0),
    "dra": lambda: gated(Dra),
    "mmr": lambda: gated(Mmr, relevance_weight=None),
    "constant": lambda: gated(Constant, size=None, cosine=0.5),
    "gapo": lambda: gated(partial(Gapo, task=CountingTask()), answers=None),
    "partition": lambda: gated(
        partial(Partition, task=CountingTask()), comparison=comparison(), form=Form.add, floor=0.1, subtract_min=False
    ),
    "unlikeliness": lambda: gated(Unlikeliness, penalty=0.25, likelihood=Likelihood.sequence),
    "ngram": lambda: gated(Ngram, n=1),
}
ADVANTAGES = {
    "joint": lambda: Joint(scale_rewards=ScaleRewards.group),
    "joint batch": lambda: Joint(scale_rewards=ScaleRewards.batch),
    "separate": lambda: Separate(scale_rewards=ScaleRewards.batch),
    "unbiased": lambda: Unbiased(baseline_decay=0.9),
    **{f"set {f}": partial(set_advantage, f) for f in SetValue},
    "pkpo": lambda: Pkpo(subsets=Subsets(n=2, k=4), baseline=Baseline.none, credit=SPREAD),
    "maxrl": lambda: MaxRL(credit=SPREAD),
    "ucpo": lambda: Ucpo(tau=0.2, divide_by_std=True, credit=SPREAD),
    "gdpo": lambda: Gdpo(given()),
    "flowrl": lambda: FlowRL(
        flow_beta=15.0, weight=1.0, scale_rewards=ScaleRewards.group, normalize_credit=NormalizeCredit.spread
    ),
}


# each credit, and each advantage: they meet in credits_PK alone
PAIRS = [*((credit, "joint") for credit in CREDITS), *itertools.product(["dpp", "dpp correct"], ADVANTAGES)]


@pytest.mark.parametrize(("credit", "advantage"), dict.fromkeys(PAIRS))
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


TERMS = {
    "entropy": lambda: Entropy(coefficient=0.5, tokens=Tokens.all, top_entropy_quantile=None),
    "entropy correct": lambda: Entropy(coefficient=0.5, tokens=Tokens.correct, top_entropy_quantile=None),
    "entropy top": lambda: Entropy(coefficient=0.5, tokens=Tokens.top, top_entropy_quantile=0.3),
    "entropy adaptive": lambda: adaptive_entropy(target=5.0),
    "top entropy": lambda: TopEntropy(top_entropy_quantile=0.3),
    "replay": lambda: Replay(CountingTask(), coefficient=1.0, per_prompt=2, k=4),
    "clip cov": lambda: ClipCov(share=0.2, low=-1e3, high=1e3, seed=0),
    "kl cov": lambda: KlCov(share=0.2, coefficient=1.0, num_iterations=2, ahead=0),
    "kl sequence": lambda: KlSequence(coefficient=0.1),
}


@pytest.mark.parametrize("term", TERMS)
def test_masked_values_change_nothing_in_a_term_of_the_loss(term):
    without, one, other = (
        step_of(
            each, credit=dpp(), advantage=Joint(scale_rewards=ScaleRewards.group), num_iterations=2,
            loss=clip(beta=0.1, terms=terms),
        )
        for each, terms in (
            (given(), {}), (given(), {"one": TERMS[term]()}), (with_garbage(given()), {"one": TERMS[term]()})
        )
    )  # fmt: skip
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert_same(mine, theirs, atol=0)
    assert metrics_of(one[0]) == pytest.approx(metrics_of(other[0]), rel=0, abs=0, nan_ok=True)
    if not term.startswith("kl"):  # the recorder's steps change nothing, so both KLs stay 0
        assert any(not torch.equal(one[1][0][name], without[1][0][name]) for name in one[1][0])


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
