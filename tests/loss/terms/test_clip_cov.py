import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.terms.clip_cov import ClipCov
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs


def clip_cov(**changes):
    return ClipCov(**({"share": 0.1, "low": 0.1, "high": 0.5, "seed": 0} | changes))


def marked(term):
    """(covariances of all tokens, which are dropped), as in the paper's equation, for random numbers."""
    experience, generator = make_experience(prompts=4, k=4), torch.Generator().manual_seed(0)
    sampled_BT = experience.rollouts.sampled_BT
    logprobs_BT, advantages_BT = torch.randn(2, *sampled_BT.shape, generator=generator) * sampled_BT
    marks = term.marks(experience, Estimates(old_logprobs_BT=logprobs_BT), Targets(advantages_BT=advantages_BT))
    advantages, logprobs = advantages_BT[sampled_BT], logprobs_BT[sampled_BT]
    return (advantages - advantages.mean()) * (logprobs - logprobs.mean()), marks["dropped"][sampled_BT]


def test_a_share_of_all_tokens_is_dropped_among_those_between_the_bounds():
    covariances_N, dropped_N = marked(clip_cov())
    between_N = (covariances_N > 0.1) & (covariances_N < 0.5)
    assert dropped_N.sum() == int(0.1 * len(dropped_N)) < between_N.sum()
    assert not dropped_N[~between_N].any()


def test_all_candidates_are_dropped_where_they_are_fewer_and_one_token_at_least():
    covariances_N, dropped_N = marked(clip_cov(share=1.0))
    assert dropped_N.equal((covariances_N > 0.1) & (covariances_N < 0.5))
    assert marked(clip_cov(share=1e-6))[1].sum() == 1
    assert marked(clip_cov(low=50.0, high=60.0))[1].sum() == 0


def test_the_metric_is_the_share_of_dropped_tokens_and_nothing_is_added_to_the_loss():
    term = clip_cov()
    _, dropped_N = marked(term)
    loss, means = term(make_loss_inputs(torch.zeros(3)))
    assert loss == 0
    total, count = means["clip_cov/dropped"]
    assert total / count == pytest.approx(dropped_N.float().mean().item())


def test_bounds_that_hold_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"^loss\.terms\.clip_cov\.low=5: .*type"):
        clip_cov(low=5.0, high=5.0)
