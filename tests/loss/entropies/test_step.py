import math

import pytest

from dqo.batching import join, split
from dqo.loss.entropies.step import sampled_entropy, top_tokens
from dqo.records import Estimates
from tests.factories import make_experience
from tests.helpers.on_ranks import on_ranks


def entropies_of(experience):
    """Numbers that each token keeps on whichever rank it is: of its own id."""
    return experience.rollouts.tokens_BT.float() / 7


def test_the_top_is_that_of_all_ranks(tmp_path):
    """One rank's tokens have all the largest entropies."""
    groups = split(make_experience(prompts=3, k=4))
    whole = join(groups)

    def found(rank):
        own = join(groups[:2] if rank == 0 else groups[2:])
        top_BT, threshold = top_tokens(own, Estimates(entropies_BT=entropies_of(own)), 0.25)
        return entropies_of(own)[top_BT].tolist(), threshold, sampled_entropy(own)

    (first, threshold, entropy), (second, *other) = on_ranks(2, tmp_path, found)
    top_BT, expected = top_tokens(whole, Estimates(entropies_BT=entropies_of(whole)), 0.25)
    assert threshold == other[0] == expected
    assert sorted(first + second) == sorted(entropies_of(whole)[top_BT].tolist())
    assert entropy == other[1] == pytest.approx(math.log(63))  # the sampler's policy is uniform
