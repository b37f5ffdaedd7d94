from dataclasses import replace

import pytest
import torch

from dqo.credit.parts.novelty import novel_shares
from tests.credit.groups import group


def test_shares_by_their_definition():
    generator = torch.Generator().manual_seed(0)
    rollouts, _ = group([[0.0] * 5] * 20)
    letters = torch.randint(0, 6, (100, 4), generator=generator)
    rollouts = replace(rollouts, texts=tuple("".join("abcdef"[j] for j in row) for row in letters))
    earning_PK = torch.rand(20, 5, generator=generator) < 0.8
    shares_PK = novel_shares(rollouts, earning_PK, list)
    for p in range(20):
        for i in range(5):
            mine = rollouts.texts[5 * p + i]
            others = {c for j in range(5) if j != i and earning_PK[p, j] for c in rollouts.texts[5 * p + j]}
            expected = len(set(mine) - others) / len(mine) if earning_PK[p, i] else 0.0
            assert shares_PK[p, i].item() == pytest.approx(expected)


def test_a_completion_without_parts_gets_0():
    rollouts, _ = group([[0.0] * 2])
    assert novel_shares(rollouts, torch.ones(1, 2, dtype=torch.bool), lambda text: []).tolist() == [[0.0, 0.0]]
