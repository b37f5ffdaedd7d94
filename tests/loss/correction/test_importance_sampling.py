import math

import pytest
import torch

from dqo.learner.update.objective import Tally
from dqo.loss.correction.importance_sampling import Mismatch, Mode

# learner / sampler probability of five tokens in two completions of 2 and 3 tokens
RATIOS, ROWS = torch.tensor([2.0, 4.0, 0.5, 0.1, 1.0]), torch.tensor([7, 7, 3, 3, 3])
PRODUCTS = torch.tensor([8.0, 8.0, 0.05, 0.05, 0.05])


def factors(mode: Mode, *, low: float | None = None, high: float | None = None):
    mismatch = Mismatch(mode, clip_min=low, clip_max=high)
    return mismatch(logprobs_N=RATIOS.log(), sampler_logprobs_N=torch.zeros(5), rows_N=ROWS)


@pytest.mark.parametrize(
    ("mode", "low", "high", "expected"),
    [
        (Mode.none, 0.2, 3.0, torch.ones(5)),
        (Mode.token_truncate, None, 3.0, [2.0, 3.0, 0.5, 0.1, 1.0]),
        (Mode.token_truncate, 0.2, None, [2.0, 4.0, 0.5, 0.2, 1.0]),
        (Mode.token_mask, 0.2, 3.0, [2.0, 0.0, 0.5, 0.0, 1.0]),
        (Mode.sequence_truncate, 0.1, 3.0, [3.0, 3.0, 0.1, 0.1, 0.1]),
        (Mode.sequence_mask, None, 3.0, [0.0, 0.0, 0.05, 0.05, 0.05]),
        (Mode.sequence_mask, None, None, PRODUCTS),
    ],
)
def test_factors_of_each_mode(mode, low, high, expected):
    factors_N, _ = factors(mode, low=low, high=high)
    torch.testing.assert_close(factors_N, torch.as_tensor(expected))


def test_metrics_at_token_and_sequence_level():
    differences = RATIOS.log().tolist()
    _, means = factors(Mode.none, low=0.2, high=3.0)
    tally = Tally()
    tally.add(means)
    report = tally.means(Mismatch.names)
    ratio = "sampling/importance_sampling_ratio"
    assert report["sampling/sampling_logp_difference/mean"] == pytest.approx(sum(map(abs, differences)) / 5)
    assert report["sampling/sampling_logp_difference/max"] == pytest.approx(math.log(10))
    assert report["sampling/kl"] == pytest.approx(sum(math.exp(d) - 1 - d for d in differences) / 5)
    assert report[f"{ratio}/mean"] == pytest.approx(7.6 / 5)
    assert (report[f"{ratio}/min"], report[f"{ratio}/max"]) == (pytest.approx(0.1), pytest.approx(4.0))
    assert report[f"{ratio}/clipped"] == pytest.approx(2 / 5)
    _, means = factors(Mode.sequence_mask, high=3.0)
    assert means[f"{ratio}/mean"][0] / means[f"{ratio}/mean"][1] == pytest.approx((8 + 0.05) / 2)
    assert means[f"{ratio}/clipped"][0] / means[f"{ratio}/clipped"][1] == pytest.approx(1 / 2)


def test_metrics_of_micro_batches_combine_to_the_metrics_of_the_step():
    mismatch, whole, parts = Mismatch(Mode.token_mask, clip_min=None, clip_max=3.0), Tally(), Tally()
    whole.add(factors(Mode.token_mask, high=3.0)[1])
    for part in (slice(0, 2), slice(2, 5)):
        parts.add(
            mismatch(logprobs_N=RATIOS.log()[part], sampler_logprobs_N=torch.zeros(5)[part], rows_N=ROWS[part])[1]
        )
    assert parts.means(Mismatch.names) == pytest.approx(whole.means(Mismatch.names))


@pytest.mark.parametrize("mode", [Mode.token_truncate, Mode.sequence_truncate])
def test_unbiased_by_enumeration(mode):
    """Two tokens from a vocabulary of three, drawn by another sampler. The expected gradient over all nine completions
    is the policy's exact one at sequence level; at token level it is exact only to first order."""
    torch.manual_seed(0)
    logits = torch.randn(3, requires_grad=True)
    sampler = torch.randn(3).softmax(0)
    reward = torch.randn(3, 3)
    mismatch = Mismatch(mode, clip_min=None, clip_max=None)
    value = torch.zeros(())
    for first in range(3):
        for second in range(3):
            logprobs_N = logits.log_softmax(0)[[first, second]]
            factors_N, _ = mismatch(
                logprobs_N=logprobs_N.detach(), sampler_logprobs_N=sampler.log()[[first, second]],
                rows_N=torch.zeros(2, dtype=torch.long),
            )  # fmt: skip
            chance = sampler[first] * sampler[second]
            value = value + chance * (factors_N * logprobs_N).sum() * reward[first, second]
    (gradient,) = torch.autograd.grad(value, logits)
    policy = logits.softmax(0)
    if mode is Mode.sequence_truncate:
        expected = policy @ reward @ policy
    else:  # the ratio corrects one token; the other token still has the sampler's distribution
        expected = policy @ reward @ sampler + sampler @ reward @ policy
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0])
