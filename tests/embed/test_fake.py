import math

import pytest
import torch

from dqo.capabilities import EncodesTexts
from dqo.embed.fake import Fake
from dqo.stages import Embed
from tests.factories import make_rollouts


def test_cosines_are_those_of_word_counts():
    stage = Fake(dim=4096)  # wide enough that no two of these words share an axis
    assert isinstance(stage, Embed)
    embeddings_PKD = stage.encode(make_rollouts(["a b", "b a", "a c", "d", "a a b", ""], 3))
    assert embeddings_PKD.shape == (2, 3, 4096)
    rows = embeddings_PKD.flatten(0, 1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(6))
    cosines = rows @ rows.T
    assert cosines[0].tolist() == pytest.approx([1, 1, 0.5, 0, 3 / math.sqrt(10), 0], abs=1e-6)


def test_any_texts_are_encoded_as_completions_are():
    stage, texts = Fake(dim=64), ["a b", "c", "", "a b"]
    assert isinstance(stage, EncodesTexts)
    assert torch.equal(stage.encode_texts(texts), stage.encode(make_rollouts(texts, 2)).flatten(0, 1))


def test_equal_in_every_process():
    """Python's own hash() of a text differs from process to process."""
    embeddings_PKD = Fake(dim=64).encode(make_rollouts(["w1 w2"], 1))
    assert embeddings_PKD[0, 0].nonzero()[:, 0].tolist() == [18, 56]
