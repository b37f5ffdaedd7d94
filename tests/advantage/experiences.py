"""Experiences with given rewards and credits. Each completion has two tokens: a word and the end token."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dqo.records import Experience
from tests.factories import make_rewards, make_rollouts


def experience_of(
    rewards: Sequence[Sequence[float]],
    credits: Sequence[Sequence[float]],
    valid: Sequence[Sequence[bool]] | None = None,
    texts: Sequence[str] | None = None,
) -> Experience:
    """``texts``: of all completions in order; None: words that differ within a group."""
    k = len(rewards[0])
    texts = [f"w{i % 60}" for i in range(len(rewards) * k)] if texts is None else texts
    return Experience(
        rollouts=make_rollouts(texts, k),
        rewards=make_rewards(rewards, valid=None if valid is None else torch.tensor(valid)),
        embeddings_PKD=None,
        credits_PK=torch.tensor(credits, dtype=torch.float32),
    )


def per_completion(experience: Experience, advantages_BT: Tensor) -> Tensor:
    """(prompts, k) advantages. Checks that all sampled tokens of a completion have the same one, all others 0."""
    sampled_BT = experience.rollouts.sampled_BT
    assert advantages_BT.shape == sampled_BT.shape
    assert advantages_BT[~sampled_BT].eq(0).all()
    values_B = (advantages_BT * sampled_BT).sum(1) / sampled_BT.sum(1)
    torch.testing.assert_close(advantages_BT, values_B[:, None] * sampled_BT)
    return values_B.view(-1, experience.rollouts.k)
