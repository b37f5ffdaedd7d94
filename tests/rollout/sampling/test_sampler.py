import math

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from dqo.rollout.sampling.sampler import Sampler, row_uniforms
from tests.rollout.builders import sampling

DRAWS = 40_000


def logits_of(vocabulary: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2


def by_transformers(logits, seen, *, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0):
    """The distribution after transformers' own logits processors, in the order in which ``generate`` applies them."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(repetition_penalty)])
    processors.append(TemperatureLogitsWarper(temperature))
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    return processors(seen, logits.clone()).softmax(-1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 1.7},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"repetition_penalty": 1.8},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.7, "min_p": 0.15, "repetition_penalty": 1.3},
    ],
)
def test_token_frequencies_match_the_exact_distribution(settings):
    """Pearson's chi-square is below its expectation plus five standard deviations; no filtered token is drawn."""
    logits, seen = logits_of(30), torch.tensor([[3, 7, 7, 20]])
    exact = by_transformers(logits, seen, **settings)[0]
    seen_RV = None
    if "repetition_penalty" in settings:
        seen_RV = torch.zeros(DRAWS, 30, dtype=torch.bool)
        seen_RV[:, seen[0]] = True
    uniforms = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1))
    tokens, logprobs = Sampler(sampling(**settings))(logits.expand(DRAWS, -1), 1 - uniforms, seen_RV)
    counts = torch.bincount(tokens, minlength=30).double()
    assert not counts[exact == 0].any()
    kept = exact > 0
    expected = exact[kept].double() * DRAWS
    chi_square = ((counts[kept] - expected) ** 2 / expected).sum()
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)
    unfiltered = (logits / settings.get("temperature", 1.0)).log_softmax(-1)[0]
    torch.testing.assert_close(logprobs, unfiltered[tokens])


def test_extreme_uniforms_draw_no_token_of_weight_0():
    logits = logits_of(50_000, seed=2)
    logits[0, [0, -1]] = -math.inf
    uniforms = torch.tensor([2.0**-24, 1.0])
    for settings in ({}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.3}):
        tokens, logprobs = Sampler(sampling(**settings))(logits.expand(2, -1), uniforms)
        assert logprobs.isfinite().all(), settings
        assert (tokens >= 0).all()


def test_top_k_of_one_is_greedy():
    logits = logits_of(30)
    tokens, logprobs = Sampler(sampling(top_k=1))(logits, torch.ones(1))
    assert tokens.tolist() == [int(logits.argmax())]
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).amax(-1))


def test_a_penalty_prevents_repeating_the_greedy_choice():
    logits, seen = logits_of(30), torch.zeros(1, 30, dtype=torch.bool)
    seen[0, logits.argmax()] = True
    tokens, _ = Sampler(sampling(top_k=1, repetition_penalty=100.0))(logits, torch.ones(1), seen)
    assert tokens.tolist() == logits.topk(2).indices[0, 1:].tolist()


def test_logits_that_are_not_finite_give_nan_log_probabilities():
    logits = logits_of(30)
    logits[0, 4] = math.nan
    for settings in ({}, {"top_k": 3}, {"top_p": 0.5}):
        assert Sampler(sampling(**settings))(logits, torch.tensor([0.5]))[1].isnan().all()


def test_bfloat16_logits_give_float32_log_probabilities():
    _, logprobs = Sampler(sampling())(logits_of(30).bfloat16(), torch.tensor([0.5]))
    assert logprobs.dtype == torch.float32


def test_uniforms_of_a_row_are_fixed():
    numbers = row_uniforms(0, 17, 3, 8)
    assert torch.equal(numbers, row_uniforms(0, 17, 3, 8))
    assert torch.equal(numbers[:5], row_uniforms(0, 17, 3, 5))
    for seed, position, i in ((1, 17, 3), (0, 18, 3), (0, 17, 4), (0, 1, 73), (0, 173, 0)):
        assert not (numbers == row_uniforms(seed, position, i, 8)).any()
    assert numbers[:2].tolist() == pytest.approx([0.7301, 0.0439], abs=1e-4)  # a change would break resumed runs
    many = torch.stack([row_uniforms(0, p, 0, 1) for p in range(2000)])
    assert (many > 0).all() and (many <= 1).all()
    assert abs(float(many.mean()) - 0.5) < 0.02


def test_temperature_0_is_greedy_whatever_the_uniforms_and_filters():
    logits_RV = logits_of(50).repeat(4, 1)
    tokens_R, logprobs_R = Sampler(sampling(temperature=0.0, top_p=0.9))(logits_RV, torch.tensor([1e-6, 0.3, 0.9, 1.0]))
    assert (tokens_R == logits_RV[0].argmax()).all()
    torch.testing.assert_close(logprobs_R, logits_RV.log_softmax(-1).amax(-1))
    assert Sampler(sampling(temperature=0.0))(logits_RV * math.nan, torch.ones(4))[1].isnan().all()


def test_temperature_0_with_a_penalty_prevents_repeating_the_greedy_choice():
    logits_RV = torch.tensor([[2.0, 1.9, 0.0]])
    seen_RV = torch.tensor([[True, False, False]])
    tokens_R, _ = Sampler(sampling(temperature=0.0, repetition_penalty=2.0))(logits_RV, torch.ones(1), seen_RV)
    assert tokens_R.tolist() == [1]
