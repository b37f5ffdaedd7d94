import pytest
import torch

from dqo.loss.terms.dph import Dph
from dqo.records import Experience
from dqo.references import Reference, References
from tests.factories import make_loss_inputs, make_prompts, make_rewards, make_rollouts
from tests.helpers.on_ranks import on_ranks

PROMPTS = make_prompts(2)
# completions of the initial policy and which are right
SAMPLES = [(["w1 w9", "w2", "w3"], [1, 1, 0]), (["w4", "w5", "w6"], [0, 1, 0])]


def dph(*, least_correct=0.0):
    references = References()
    term = Dph(references, coefficient=0.5, reference_samples=3, least_correct=least_correct)
    assert references.count == 3 and not references.embedded
    for prompt, (texts, right) in zip(PROMPTS, SAMPLES, strict=True):
        rollouts = make_rollouts(texts, 3, prompts=[prompt])
        reference = Reference(rollouts=rollouts, rewards=make_rewards([right]), embeddings_KD=None)
        references.add({prompt.tokens: reference})
    return term


def experience(prompts):
    texts = ["w7"] * 2 * len(prompts)
    return Experience(
        rollouts=make_rollouts(texts, 2, prompts=prompts), rewards=make_rewards(torch.zeros(len(prompts), 2)),
        embeddings_PKD=None, credits_PK=torch.zeros(len(prompts), 2),
    )  # fmt: skip


def learned(supervised):
    """The tokens that are learned, and the weights."""
    sampled_BT = supervised.rollouts.sampled_BT
    rows = [supervised.rollouts.tokens_BT[row][own].tolist() for row, own in enumerate(sampled_BT) if own.any()]
    return rows, supervised.weights_BT[sampled_BT].tolist()


def test_the_loss_is_the_mean_over_the_tokens_of_the_references_correct_completions():
    term = dph()
    rows, weights = learned(term.supervised(experience(PROMPTS)))
    assert rows == [[4, 12, 1], [5, 1], [8, 1]]
    assert weights == pytest.approx([0.5 / 7] * 7)
    loss, means = term(make_loss_inputs(torch.zeros(3)))
    assert loss == 0
    assert means["dph/completions"] == (3, 1)


def test_prompts_that_the_reference_solves_too_rarely_are_left_out():
    rows, weights = learned(dph(least_correct=0.5).supervised(experience(PROMPTS)))
    assert rows == [[4, 12, 1], [5, 1]]
    assert weights == pytest.approx([0.1] * 5)
    assert dph(least_correct=1.0).supervised(experience(PROMPTS)) is None


def test_samples_that_another_stage_asked_for_are_not_learned_from():
    term = dph(least_correct=0.5)
    term.samples = 1  # of three
    rows, _ = learned(term.supervised(experience(PROMPTS)))
    assert rows == [[4, 12, 1]]


def test_the_mean_is_over_all_ranks(tmp_path):
    term = dph()
    (first, weights), (second, other) = on_ranks(
        2, tmp_path, lambda rank: learned(term.supervised(experience(PROMPTS[rank : rank + 1])))
    )
    assert first == [[4, 12, 1], [5, 1]] and second == [[8, 1]]
    assert weights + other == pytest.approx([0.5 / 7] * 7)
