"""Rollouts and rewards arrive as they were sent; what is no reply is refused in one line."""

import json
from dataclasses import replace

import pytest
import torch

from dqo.records import Prompt, Rewards
from dqo.wire import (
    Completion,
    ScoreReply,
    ScoreRequest,
    decode_rewards,
    decode_rollouts,
    encode_rewards,
    encode_rollouts,
    parse,
)
from tests.factories import make_prompts, make_rollouts

TEXTS = ["w1 w2", "w3", "w4 w5 w6", "", "w7", 'ü "quoted" \n 🙂']


def arrived(rollouts):
    request = parse(ScoreRequest, encode_rollouts(rollouts))
    return [decode_rollouts(group, _no_tokens) for group in request.groups]


def _no_tokens(completion: Completion) -> list[int]:
    raise AssertionError("the tokens were sent")


def replied(rewards: Rewards) -> bytes:
    return ScoreReply.model_construct(groups=encode_rewards(rewards)).model_dump_json().encode()


def test_groups_arrive_as_they_were_sent():
    prompts = make_prompts(2, answer="42", numbers=[1, 2.5], nothing=None)
    sent = make_rollouts(TEXTS, 3, prompts=prompts, finished=[True, False, True, True, True, False])
    for p, group in enumerate(arrived(sent)):
        rows = slice(3 * p, 3 * p + 3)
        width = int(sent.lengths_B[rows].max())
        assert group.prompts == (sent.prompts[p],) and group.texts == sent.texts[rows]
        assert torch.equal(group.tokens_BT, sent.tokens_BT[rows, :width])
        assert torch.equal(group.sampled_BT, sent.sampled_BT[rows, :width])
        assert torch.equal(group.lengths_B, sent.lengths_B[rows])
        assert torch.equal(group.finished_B, sent.finished_B[rows])
        assert group.logprobs_BT[group.sampled_BT].isnan().all() and not group.logprobs_BT[~group.sampled_BT].any()


def test_chat_messages_and_tokens_of_tools_arrive():
    content = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"})
    prompt = Prompt(position=7, tokens=(3, 4), content=content, columns={})
    sent = make_rollouts(["w1 w2 w3"], 1, prompts=[prompt])
    sampled_BT = sent.sampled_BT.clone()
    sampled_BT[0, 3] = False
    (group,) = arrived(replace(sent, sampled_BT=sampled_BT))
    assert group.prompts[0].content == content and torch.equal(group.sampled_BT, sampled_BT)


def test_texts_alone_are_tokenized_by_the_server():
    body = json.dumps({"groups": [{"prompt": "p", "completions": [{"text": "a b"}, {"text": "c", "finished": False}]}]})
    request = parse(ScoreRequest, body.encode())
    rollouts = decode_rollouts(request.groups[0], lambda each: [5] * len(each.text.split()) + [1] * each.finished)
    assert rollouts.lengths_B.tolist() == [3, 1] and rollouts.tokens_BT.tolist() == [[5, 5, 1], [5, 0, 0]]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x"])
def test_a_column_that_json_cannot_hold_is_named(value):
    with pytest.raises(ValueError, match="the column extra of prompt 0 has no JSON"):
        encode_rollouts(make_rollouts(["w1"], 1, prompts=make_prompts(1, fine=1, extra=value)))


def test_rewards_arrive_exactly():
    generator = torch.Generator().manual_seed(0)
    total_PK = torch.randn(2, 3, generator=generator) * torch.tensor([1e-30, 1.0, 1e30])
    part_PK = total_PK.clone()
    part_PK[0, 1] = float("nan")
    valid_PK = torch.tensor([[True, True, False], [True, True, True]])
    sent = Rewards(
        total_PK=total_PK.masked_fill(~valid_PK, 0.0), parts={"a": part_PK, "b": total_PK},
        correct_PK=total_PK > 0, valid_PK=valid_PK,
    )  # fmt: skip
    got = decode_rewards(replied(sent), make_rollouts(TEXTS, 3))
    assert torch.equal(got.total_PK, sent.total_PK) and torch.equal(got.valid_PK, valid_PK)
    assert got.correct_PK is not None and torch.equal(got.correct_PK, total_PK > 0)
    assert torch.equal(got.parts["b"], total_PK) and torch.equal(got.parts["a"].isnan(), part_PK.isnan())
    assert torch.equal(got.parts["a"].nan_to_num(), part_PK.nan_to_num())


def test_rewards_that_json_cannot_hold_are_refused():
    ones_PK = torch.ones(1, 2)
    fine = Rewards(total_PK=ones_PK, parts={"a": ones_PK}, correct_PK=None, valid_PK=ones_PK.bool())
    with pytest.raises(ValueError, match="the total of a completion is nan"):
        encode_rewards(replace(fine, total_PK=torch.tensor([[1.0, float("nan")]])))
    with pytest.raises(ValueError, match="the part a of a completion is inf"):
        encode_rewards(replace(fine, parts={"a": torch.tensor([[1.0, float("inf")]])}))
    masked = replace(fine, total_PK=torch.tensor([[1.0, float("nan")]]), valid_PK=torch.tensor([[True, False]]))
    assert encode_rewards(masked)[0].total == [1.0, 0.0]


GOOD = {"total": [1.0, 0.5], "parts": {"a": [1.0, None]}, "correct": [True, False], "valid": [True, True]}
BAD = {
    "no json": (b"<html>", "Invalid JSON"),
    "another object": (b'{"rewards": [1.0, 0.5]}', "groups: Field required"),
    "one group too many": ([GOOD, GOOD], "2 groups for 1"),
    "a value too few": ([{**GOOD, "total": [1.0]}], "groups.0.total has 1 values for 2 completions"),
    "a part's value too few": ([{**GOOD, "parts": {"a": [1.0]}}], "groups.0.a has 1 values for 2 completions"),
    "a string": ([{**GOOD, "total": [1.0, "0.5"]}], "groups.0.total.1: Input should be a valid number"),
    "null": ([{**GOOD, "total": [1.0, None]}], "groups.0.total.1: Input should be a valid number"),
    "truth": ([{**GOOD, "total": [1.0, True]}], "groups.0.total.1: Input should be a valid number"),
    "NaN": ([{**GOOD, "total": [1.0, float("nan")]}], "groups.0.total.1: Input should be a finite number"),
    "beyond float32": ([{**GOOD, "total": [1.0, 1e300]}], "total has a number beyond float32"),
    "a number for true": ([{**GOOD, "valid": [1, 1]}], "groups.0.valid.0: Input should be a valid boolean"),
}


@pytest.mark.parametrize("body, problem", BAD.values(), ids=BAD.keys())
def test_a_wrong_reply_is_refused(body, problem):
    data = body if isinstance(body, bytes) else json.dumps({"groups": body}).encode()
    with pytest.raises(ValueError) as caught:
        decode_rewards(data, make_rollouts(["w1", "w2"], 2))
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_groups_with_other_parts_are_refused():
    for other, problem in [
        ({**GOOD, "parts": {"b": [1.0, 1.0]}}, "groups.1.parts are b, and a in groups.0"),
        ({**GOOD, "correct": None}, "groups.1.correct and groups.0.correct"),
    ]:
        with pytest.raises(ValueError, match=problem):
            decode_rewards(json.dumps({"groups": [GOOD, other]}).encode(), make_rollouts(TEXTS[:4], 2))
