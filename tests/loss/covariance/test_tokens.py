import pytest
import torch

from dqo.batching import join, split
from dqo.loss.covariance.tokens import Covariances, covariances, largest_tokens, random_tokens
from dqo.records import Estimates, Targets
from tests.factories import make_experience
from tests.helpers.on_ranks import on_ranks


def step():
    """Groups with one invalid completion, log-probabilities, and advantages of whole completions."""
    experience = make_experience(prompts=3, k=4)
    experience.rewards.valid_PK[0, 1] = False
    generator, sampled_BT = torch.Generator().manual_seed(0), experience.rollouts.sampled_BT
    logprobs_BT = -torch.rand(sampled_BT.shape, generator=generator) * 3 * sampled_BT
    advantages_BT = torch.randn(len(sampled_BT), 1, generator=generator) * sampled_BT
    return experience, logprobs_BT, advantages_BT


def covariances_of(experience, logprobs_BT, advantages_BT):
    return covariances(experience, Estimates(old_logprobs_BT=logprobs_BT), Targets(advantages_BT=advantages_BT))


def test_covariances_are_those_of_the_steps_valid_tokens():
    experience, logprobs_BT, advantages_BT = step()
    found = covariances_of(experience, logprobs_BT, advantages_BT)
    counted = [
        (row, token) for row, token in experience.rollouts.sampled_BT.nonzero().tolist() if row != 1
    ]  # row 1 is invalid
    assert found.counted_BT.nonzero().tolist() == [list(place) for place in counted]
    assert found.tokens == len(counted)
    advantages = [advantages_BT[place].item() for place in counted]
    logprobs = [logprobs_BT[place].item() for place in counted]
    for place, advantage, logprob in zip(counted, advantages, logprobs, strict=True):
        expected = (advantage - sum(advantages) / len(counted)) * (logprob - sum(logprobs) / len(counted))
        assert found.values_BT[place].item() == pytest.approx(expected, abs=1e-9)
    assert not found.values_BT[~found.counted_BT].any()


def test_a_share_is_at_least_one_token():
    found = Covariances(values_BT=torch.zeros(1, 1), counted_BT=torch.ones(1, 1, dtype=torch.bool), tokens=999)
    assert [found.number(share) for share in (2e-4, 2e-3, 0.01)] == [1, 1, 9]


def test_the_largest_tokens_are_those_of_a_sort():
    found = covariances_of(*step())
    chosen_BT = largest_tokens(found, 5)
    assert chosen_BT.sum() == 5
    assert found.values_BT[chosen_BT].min() >= found.values_BT[found.counted_BT & ~chosen_BT].max()
    assert largest_tokens(found, 10_000).equal(found.counted_BT)


def test_ties_do_not_choose_more_tokens():
    found = Covariances(values_BT=torch.ones(2, 3), counted_BT=torch.ones(2, 3, dtype=torch.bool), tokens=6)
    assert largest_tokens(found, 4).tolist() == [[True, True, True], [True, False, False]]


def test_random_tokens_are_candidates_and_others_in_another_step():
    candidates_BT = torch.rand(6, 50, generator=torch.Generator().manual_seed(0)) < 0.5
    one, same, other, seeded = (
        random_tokens(candidates_BT, 10, seed=seed, positions=positions)
        for seed, positions in ((0, [1, 2]), (0, [1, 2]), (0, [3, 4]), (1, [1, 2]))
    )
    assert one.sum() == 10 and not one[~candidates_BT].any()
    assert one.equal(same) and not one.equal(other) and not one.equal(seeded)
    assert random_tokens(candidates_BT, 1000, seed=0, positions=[1]).equal(candidates_BT)
    nothing_BT = torch.zeros(2, 2, dtype=torch.bool)
    assert random_tokens(nothing_BT, 3, seed=0, positions=[1]).equal(nothing_BT)


def test_several_ranks_choose_as_one(tmp_path):
    experience, logprobs_BT, advantages_BT = step()
    whole = covariances_of(experience, logprobs_BT, advantages_BT)
    largest_BT, groups = largest_tokens(whole, 7), split(experience)
    rows = [slice(0, 8), slice(8, 12)]  # two ranks: of two prompts and of one

    def run(rank):
        part = join(groups[:2] if rank == 0 else groups[2:])
        width = part.rollouts.tokens_BT.shape[1]
        found = covariances_of(part, *(each[rows[rank], :width] for each in (logprobs_BT, advantages_BT)))
        random_BT = random_tokens(found.counted_BT, 6, seed=0, positions=[rank])
        return found.values_BT.tolist(), found.tokens, largest_tokens(found, 7).tolist(), int(random_BT.sum())

    results = on_ranks(2, tmp_path, run)
    for rank, (values, tokens, largest, _) in enumerate(results):
        width = len(values[0])
        torch.testing.assert_close(torch.tensor(values, dtype=torch.float64), whole.values_BT[rows[rank], :width])
        assert tokens == whole.tokens
        assert largest == largest_BT[rows[rank], :width].tolist()
    assert sum(count for *_, count in results) == 6
