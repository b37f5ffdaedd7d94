"""A reward and an encoder called with what several clients have sent."""

import pytest
import torch

from dqo.embed.fake import Fake
from dqo.errors import StageError
from dqo.records import Rewards
from dqo.run.serving.stages import Encoder, Scorer
from dqo.wire import Completion, Group
from tests.factories import word_tokenizer
from tests.helpers.toy_stages import EvenReward, OneHotEmbed


def group(*texts: str) -> Group:
    return Group(prompt="p", completions=[Completion(text=text, finished=text != "w9") for text in texts])


def test_groups_of_different_sizes_get_their_own_rewards_in_order():
    scorer = Scorer(EvenReward(), word_tokenizer())
    records = [scorer.rollouts(each) for each in (group("w2", "w3"), group("w4"), group("w5", "w6"), group("w7"))]
    assert [each.total for each in scorer(records)] == [[1.0, 0.0], [1.0], [0.0, 1.0], [0.0]]
    assert scorer([]) == []


def test_texts_are_tokenized_with_an_end_where_they_are_finished():
    record = Scorer(EvenReward(), word_tokenizer()).rollouts(group("w0 w1", "w9"))
    assert record.tokens_BT.tolist() == [[3, 4, 1], [12, 0, 0]] and record.finished_B.tolist() == [True, False]


class Infinite:
    def score(self, rollouts) -> Rewards:
        total_PK = torch.full((len(rollouts.prompts), rollouts.k), torch.inf)
        return Rewards(total_PK=total_PK, parts={}, correct_PK=None, valid_PK=total_PK > 0)


def test_a_reward_that_is_not_finite_is_refused():
    scorer = Scorer(Infinite(), word_tokenizer())
    with pytest.raises(StageError, match="the total of a completion is inf"):
        scorer([scorer.rollouts(group("w1"))])


def test_an_encoder_of_completions_alone_encodes_texts():
    assert torch.equal(torch.stack(Encoder(OneHotEmbed(), "mine")(["w3", "w5"])), torch.eye(60)[[3, 5]])
    fake = Fake(dim=8)
    assert torch.equal(torch.stack(Encoder(fake, "mine")(["w3", ""])), fake.encode_texts(["w3", ""]))
