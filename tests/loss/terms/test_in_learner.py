"""Terms in a real learner: what they add to a step's gradient, against a plain pass of the model."""

import pytest
import torch

from dqo.loss.terms.clip_cov import ClipCov
from dqo.loss.terms.kl_cov import KlCov
from dqo.loss.terms.kl_sequence import KlSequence
from dqo.loss.terms.replay import Replay
from dqo.records import Estimates, Rollouts, Targets
from tests.factories import make_experience, tiny_llama
from tests.helpers.toy_stages import CountingTask
from tests.learner.builders import Recorder, assert_same, clip, make_learner, targets_of

BETA, K = 0.5, 4


@pytest.fixture
def experience():
    return make_experience(prompts=3, k=K)


def plain_gradient(rollouts: Rollouts, factors_BT: torch.Tensor):
    """Gradient of the sum of factors * log-probabilities, a row at a time."""
    policy, total = tiny_llama(), torch.zeros(())
    for row, end in enumerate(rollouts.lengths_B.tolist()):
        logprobs_TV = policy(input_ids=rollouts.tokens_BT[row, :end][None]).logits[0, :-1].log_softmax(-1)
        logprobs_T = logprobs_TV.gather(1, rollouts.tokens_BT[row, 1:end, None])[:, 0]
        total = total + (factors_BT[row, 1:end] * logprobs_T).sum()
    named = dict(policy.named_parameters())
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


def step(term, experience, targets: Targets, *, beta=0.0, old_BT=None):
    """(gradient of a step with the term alone added, its report, estimates, marks)."""
    recorder, loss = Recorder(), clip(beta=beta, terms={"term": term})
    learner = make_learner(tiny_llama(), loss=loss, optim=recorder)
    estimates = learner.estimate(experience.rollouts)
    if old_BT is not None:
        estimates = Estimates(old_logprobs_BT=estimates.old_logprobs_BT + old_BT)
    report = learner.update(experience, estimates, targets)
    return recorder.gradients[0], report, estimates, loss.terms.marks(experience, estimates, targets)


def nothing(experience) -> Targets:
    return Targets(advantages_BT=torch.zeros(experience.rollouts.sampled_BT.shape))


def test_replay(experience):
    term, twin = (Replay(CountingTask(), coefficient=BETA, per_prompt=2, k=K) for _ in range(2))
    supervised = twin.supervised(experience)
    assert supervised is not None
    got, report, *_ = step(term, experience, nothing(experience))
    assert_same(got, plain_gradient(supervised.rollouts, -supervised.weights_BT), atol=1e-6)
    assert report["update/skipped_rows"] == 12  # no advantages: exemplars alone are computed
    assert report["supervised/nll"] > 0


def test_clip_cov(experience):
    term, targets = ClipCov(share=0.3, low=0.0, high=9.0, seed=0), targets_of(experience)
    got, report, _, marks = step(term, experience, targets)
    sampled_BT, dropped_BT = experience.rollouts.sampled_BT, marks["dropped"]
    assert 0 < dropped_BT.sum() <= 0.3 * sampled_BT.sum()
    factors_BT = -targets.advantages_BT.masked_fill(dropped_BT, 0.0) / sampled_BT.sum()
    assert_same(got, plain_gradient(experience.rollouts, factors_BT), atol=1e-6)
    assert report["clip_cov/dropped"] == pytest.approx(float(dropped_BT.sum() / sampled_BT.sum()))


def test_kl_cov(experience):
    sampled_BT, generator = experience.rollouts.sampled_BT, torch.Generator().manual_seed(0)
    moved_BT = torch.randn(sampled_BT.shape, generator=generator) * 0.1 * sampled_BT  # as if by an iteration before
    term = KlCov(share=0.4, coefficient=BETA, num_iterations=2, ahead=0)
    got, report, _, marks = step(term, experience, nothing(experience), old_BT=moved_BT)
    held_BT = marks["term/kl_cov"]
    factors_BT = BETA * held_BT * -moved_BT.sign() / sampled_BT.sum()
    assert_same(got, plain_gradient(experience.rollouts, factors_BT), atol=1e-6)
    assert report["kl_cov/log_ratio"] == pytest.approx(float(moved_BT[held_BT].abs().mean()), abs=1e-5)


def test_kl_sequence(experience):
    """The reference differs from the policy: its log-probabilities are given."""
    sampled_BT, generator = experience.rollouts.sampled_BT, torch.Generator().manual_seed(0)
    learner = make_learner(
        tiny_llama(), loss=clip(beta=BETA, terms={"term": KlSequence(coefficient=BETA)}), optim=(recorder := Recorder())
    )
    estimates = learner.estimate(experience.rollouts)
    other_BT = torch.randn(sampled_BT.shape, generator=generator) * 0.5 * sampled_BT
    estimates = Estimates(
        old_logprobs_BT=estimates.old_logprobs_BT, ref_logprobs_BT=estimates.old_logprobs_BT + other_BT
    )
    report = learner.update(experience, estimates, nothing(experience))
    kl_BT = (other_BT.exp() - other_BT - 1) * sampled_BT
    rows = torch.arange(len(kl_BT))
    factors_BT = torch.zeros_like(kl_BT)
    for row, column in sampled_BT.nonzero().tolist():
        later_B = kl_BT[:, column + 1 :].sum(1)
        others_B = (rows // K == row // K) & (rows != row)
        # of the token's own KL, k3 times the ratio has the gradient log policy - log reference
        factors_BT[row, column] = BETA * (-other_BT[row, column] + later_B[row] - later_B[others_B].mean())
    assert_same(recorder.gradients[0], plain_gradient(experience.rollouts, factors_BT / sampled_BT.sum()), atol=1e-5)
    assert report["kl/sequence"] == pytest.approx(float(kl_BT.sum() / len(kl_BT)), rel=1e-4)
