"""What holds for every credit with a gate that looks at embeddings."""

import math
from dataclasses import replace

import torch

from dqo.credit.gating.gate import Gate
from dqo.stages import Credit
from tests.credit.groups import group, unit_vectors

# one outlier beside k - 1 copies
OUTLIER = torch.eye(6)[0]
COPY = torch.eye(6)[1]


def outlier_and_copies(k):
    return torch.stack([OUTLIER, *[COPY] * (k - 1)])[None]


def assigned(credit, rewards, embeddings_PKD):
    return credit.assign(*group(rewards), embeddings_PKD)


def assert_only_those_that_pass_take_part(make):
    """``make(gate)`` is the credit with a gate."""
    credit = make(Gate.correct)
    assert isinstance(credit, Credit) and credit.uses_embeddings and credit.needs_rewards
    rollouts, rewards = group([[1.0, 0.0, 0.5, 1.0, 1.0, 0.25]], [[True, True, False, True, True, True]])
    rollouts = replace(rollouts, texts=("w1", "w2", "w3", " ", "w4", "w5"))
    embeddings_PKD = unit_vectors(1, 6, 8)
    embeddings_PKD[0, 1:4] = math.nan  # one wrong, one invalid, one empty
    credits_PK = credit.assign(rollouts, rewards, embeddings_PKD.requires_grad_())
    assert credits_PK.dtype == torch.float32 and not credits_PK.requires_grad
    assert credits_PK[0, 1:4].tolist() == [0.0] * 3
    passing = [0, 4, 5]
    alone_PK = assigned(make(Gate.none), [[1.0, 1.0, 0.25]], embeddings_PKD[:, passing])
    torch.testing.assert_close(credits_PK[:, passing], alone_PK)


def lone(make):
    """The credits of a group in which only the second of three passes, and of one in which none does."""
    credits_PK = assigned(make(Gate.correct), [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], unit_vectors(2, 3, 6))
    assert not credits_PK[1].any() and not credits_PK[0, [0, 2]].any()
    return float(credits_PK[0, 1])


def spread(credit, k, rewards=None):
    """Credit of an outlier minus the largest of its copies' credits, which are all equal."""
    credits_K = assigned(credit, [rewards or [1.0] * k], outlier_and_copies(k))[0]
    assert float(credits_K[1:].max() - credits_K[1:].min()) < 1e-6
    return float(credits_K[0] - credits_K[1])
