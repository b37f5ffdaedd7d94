"""OpenRLHF's texts become completions, and rewards its replies."""

import pytest

from dqo.errors import StageError
from dqo.run.serving.forms import RewardRequest, completion_of, groups_of, reward_reply
from dqo.wire import GroupRewards
from tests.factories import word_tokenizer

TOKENIZER = word_tokenizer()  # <pad> <eos> <unk>


def test_a_query_is_cut_into_prompt_and_completion():
    request = RewardRequest(query=["ask: w1 w2<eos><pad>", "ask: w3"], prompts=["ask:", "ask:"], labels=["7", None])
    groups = groups_of(request, TOKENIZER, "answer")
    assert [group.prompt for group in groups] == ["ask:", "ask:"]
    assert [group.columns for group in groups] == [{"answer": "7"}, {"answer": None}]
    completions = [group.completions[0] for group in groups]
    assert [(each.text, each.finished) for each in completions] == [(" w1 w2", True), (" w3", False)]


def test_older_clients_send_queries_alone():
    (group,) = groups_of(RewardRequest(query=["ask: w1<eos>"]), TOKENIZER, "label")
    assert group.prompt == "" and group.columns == {} and group.completions[0].text == "ask: w1"


def test_special_tokens_are_no_text():
    completion = completion_of("<pad>w1 <unk>w2", TOKENIZER)
    assert completion.text == "w1 w2" and not completion.finished


@pytest.mark.parametrize(
    "request_, problem",
    [
        (RewardRequest(query=["a b"], prompts=["b"]), "query 0 does not begin with its prompt"),
        (RewardRequest(query=["a", "b"], prompts=["a"]), "prompts has 1 entries for 2 queries"),
        (RewardRequest(query=["a"], labels=["x", "y"]), "labels has 2 entries for 1 queries"),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(request_, problem):
    with pytest.raises(ValueError, match=problem):
        groups_of(request_, TOKENIZER, "label")


def rewards(total: float, *, valid: bool = True, **parts: float | None) -> GroupRewards:
    return GroupRewards(
        total=[total], parts={name: [value] for name, value in parts.items()}, correct=None, valid=[valid]
    )


def test_parts_that_apply_to_all_are_logged():
    reply = reward_reply([rewards(1.0, a=0.5, b=None), rewards(0.0, a=-0.5, b=1.0)])
    assert reply.rewards == reply.scores == [1.0, 0.0] and reply.extra_logs == {"a": [0.5, -0.5]}
    assert reward_reply([]).rewards == []


def test_a_completion_without_a_reward_is_named():
    with pytest.raises(StageError, match="query 1 cannot be judged"):
        reward_reply([rewards(1.0), rewards(0.0, valid=False)])
