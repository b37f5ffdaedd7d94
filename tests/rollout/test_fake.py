import math

import pytest
import torch

from dqo.batching import join
from dqo.rollout.fake import Fake
from dqo.stages import Rollout
from tests.factories import make_prompts


def test_completions_are_words_and_either_end_or_are_cut(tokenizer):
    rollout = Fake(tokenizer, max_completion_length=6, cut=0.3)
    assert isinstance(rollout, Rollout)
    record = join(list(rollout.generate(make_prompts(20), k=4, seed=0)))
    assert 0.1 < 1 - record.finished_B.float().mean() < 0.5
    for b, text in enumerate(record.texts):
        start, length = len(record.prompts[b // 4].tokens), int(record.lengths_B[b])
        completion = record.tokens_BT[b, start:length].tolist()
        assert tuple(record.tokens_BT[b, :start].tolist()) == record.prompts[b // 4].tokens
        assert record.sampled_BT[b].nonzero()[:, 0].tolist() == list(range(start, length))
        assert 1 <= len(completion) <= 6
        assert (completion[-1] == 1) == bool(record.finished_B[b])
        assert record.finished_B[b] or len(completion) == 6
        assert text == tokenizer.decode([token for token in completion if token != 1])
    assert record.logprobs_BT[record.sampled_BT].unique().tolist() == [pytest.approx(-math.log(63))]
    assert not record.logprobs_BT[~record.sampled_BT].any()


def test_rows_depend_only_on_seed_position_and_index(tokenizer):
    rollout, prompts = Fake(tokenizer, max_completion_length=6, cut=0.1), make_prompts(4)
    texts = [record.texts for record in rollout.generate(prompts, k=3, seed=0)]
    assert [record.texts for record in rollout.generate(prompts[::-1], k=3, seed=0)] == texts[::-1]
    assert [record.texts[:2] for record in rollout.generate(prompts, k=2, seed=0)] == [group[:2] for group in texts]
    assert [record.texts for record in rollout.generate(prompts, k=3, seed=1)] != texts
    assert list(rollout.generate([], k=3, seed=0)) == []


def test_weights_are_read_to_the_end_and_their_version_is_recorded(tokenizer):
    rollout, sent = Fake(tokenizer, max_completion_length=6, cut=0.0), []

    def weights():
        for name in ("a", "b"):
            sent.append(name)
            yield name, torch.zeros(1)

    rollout.load_weights(weights(), version=5)
    rollout.pause()
    assert sent == ["a", "b"]
    (record,) = rollout.generate(make_prompts(1), k=2, seed=0)
    assert record.versions_B.tolist() == [5, 5]
    assert record.finished_B.all()
