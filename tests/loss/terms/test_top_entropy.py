from dataclasses import replace

import pytest
import torch

from dqo.capabilities import LossTerm
from dqo.loss.terms.top_entropy import TopEntropy
from dqo.records import Estimates, Targets
from tests.factories import make_experience, make_loss_inputs


def dropped(term, experience, entropies_BT):
    zeros_BT = torch.zeros(experience.rollouts.sampled_BT.shape)
    return term.marks(experience, Estimates(entropies_BT=entropies_BT), Targets(advantages_BT=zeros_BT))["dropped"]


def by_trl(entropies_BT, mask_BT, quantile):
    """Which tokens TRL's ``get_high_entropy_mask`` keeps."""
    threshold = torch.quantile(entropies_BT[mask_BT].float(), 1 - quantile)
    return (entropies_BT * mask_BT >= threshold) & mask_BT


@pytest.mark.parametrize("quantile", [0.05, 0.2, 0.5, 1.0])
def test_the_tokens_that_are_kept_are_trls(quantile):
    experience = make_experience(prompts=3, k=4)
    sampled_BT = experience.rollouts.sampled_BT
    entropies_BT = torch.rand(sampled_BT.shape, generator=torch.Generator().manual_seed(0)) + 0.1
    term = TopEntropy(top_entropy_quantile=quantile)
    got_BT = dropped(term, experience, entropies_BT)
    assert got_BT.equal(sampled_BT & ~by_trl(entropies_BT, sampled_BT, quantile))
    assert entropies_BT[sampled_BT & ~got_BT].min() >= term.threshold
    assert (entropies_BT[got_BT] < term.threshold).all()


def test_equal_entropies_are_all_kept():
    experience = make_experience()
    entropies_BT = torch.full(experience.rollouts.sampled_BT.shape, 0.1)
    assert not dropped(TopEntropy(top_entropy_quantile=0.2), experience, entropies_BT).any()


def test_it_adds_nothing_and_reports_the_threshold():
    experience, term = make_experience(), TopEntropy(top_entropy_quantile=0.2)
    assert isinstance(term, LossTerm)
    entropies_BT = torch.full(experience.rollouts.sampled_BT.shape, 0.25)
    dropped(term, experience, entropies_BT)
    value, means = term(make_loss_inputs(torch.zeros(3)))
    assert value == 0
    assert means["top_entropy/threshold"][0].item() == pytest.approx(0.25)
    nothing = replace(
        experience, rewards=replace(experience.rewards, valid_PK=torch.zeros_like(experience.rewards.valid_PK))
    )
    assert not dropped(term, nothing, entropies_BT).any()
