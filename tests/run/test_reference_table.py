"""A run that is resumed compares with exactly the completions that it began with."""

import math
from dataclasses import fields, replace

import pytest
import torch

from dqo.records import Rewards
from dqo.references import Reference
from dqo.run.reference_table import read, write
from tests.credit.groups import unit_vectors
from tests.factories import make_prompts, make_rollouts

TEXTS = (["w1 w2", "", 'w3\n"w4"', "ä😀"], ["w5", "w6", "w7 w8 w9", "w1"])


def groups(*, correct: bool, embedded: bool) -> list[Reference]:
    """Two prompts of different lengths; the second completion has a token that was not sampled."""
    found = []
    for p, prompt in enumerate(make_prompts(2)):
        rollouts = make_rollouts(TEXTS[p], 4, prompts=[prompt], finished=[True, True, False, True])
        sampled_BT = rollouts.sampled_BT.clone()
        sampled_BT[1, len(prompt.tokens)] = False
        noise_BT = torch.rand(sampled_BT.shape, generator=torch.Generator().manual_seed(p))
        total_PK = torch.tensor([[0.1, -3e7, 0.0, 1 / 3]])
        rewards = Rewards(
            total_PK=total_PK, parts={"a/b": total_PK, "none": torch.tensor([[math.nan, 1.0, 2.0, 3.0]])},
            correct_PK=total_PK > 0 if correct else None, valid_PK=torch.tensor([[True, False, True, True]]),
        )  # fmt: skip
        rollouts = replace(rollouts, sampled_BT=sampled_BT, logprobs_BT=-noise_BT.where(sampled_BT, 0.0))
        embeddings_KD = unit_vectors(4, 6, seed=p) if embedded else None
        found.append(Reference(rollouts=rollouts, rewards=rewards, embeddings_KD=embeddings_KD))
    return found


def assert_equal(one, other) -> None:
    for f in fields(one):
        mine, theirs = getattr(one, f.name), getattr(other, f.name)
        if isinstance(mine, torch.Tensor):
            assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), f.name
        elif f.name == "parts":
            assert list(mine) == list(theirs)
            torch.testing.assert_close(list(mine.values()), list(theirs.values()), rtol=0, atol=0, equal_nan=True)
        elif f.name in ("rollouts", "rewards"):
            assert_equal(mine, theirs)
        else:
            assert mine == theirs, f.name


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("embedded", [True, False])
def test_what_is_written_is_read_back_bit_for_bit(tmp_path, correct, embedded):
    written = groups(correct=correct, embedded=embedded)
    write(tmp_path / "references.parquet", written)
    found = read(tmp_path / "references.parquet", make_prompts(2))
    assert [path.name for path in tmp_path.iterdir()] == ["references.parquet"]
    for group in written:
        assert_equal(found.pop(group.rollouts.prompts[0].tokens), group)
    assert not found


def test_only_the_prompts_that_are_asked_for_are_read(tmp_path):
    write(tmp_path / "references.parquet", groups(correct=True, embedded=False))
    _, second, other = make_prompts(3)
    assert list(read(tmp_path / "references.parquet", [other, second])) == [second.tokens]
