import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dqo import services
from dqo.chat import Endpoint
from dqo.errors import ConfigError, ServiceError, StageError
from dqo.reward.judge import Judge
from tests.factories import make_rollouts
from tests.helpers.judge_server import fails, judge_server, questions, says
from tests.reward.tasks import CHATS, PROMPTS, ROLLOUTS, FixedPrompts


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(services, "FIRST_WAIT", 0.01)


def build(server, prompts=PROMPTS, **changes) -> Judge:
    asking = {"concurrency": 4, "retries": 5, "timeout": 5.0, "patience": 30.0, "max_tokens": 64}
    asking |= {name: changes.pop(name) for name in tuple(changes) if name in asking}
    settings = {
        "rubric_file": None, "scale": [1.0, 10.0], "temperature": 0.0, "repeats": 1, "price_per_million_in": None,
        "price_per_million_out": None, "cache_folder": None, "on_unread": "raise", "correct_above": None,
        "mask_truncated_completions": False,
    } | changes  # fmt: skip
    endpoint = Endpoint(base_url=server.url, model="m", **asking)
    return Judge(FixedPrompts(prompts=tuple(prompts)), endpoint=endpoint, **settings)


def judged_text(request) -> str:
    line = next(line for line in request["messages"][0]["content"].splitlines() if line.startswith("Answer: "))
    return json.loads(line.removeprefix("Answer: "))


def by_words(number, request):
    """A score of 1 for one word, 4 for two, 7 for three."""
    return says(f"Score: {3 * len(judged_text(request).split()) - 2}")


def test_each_completion_has_its_score_between_0_and_1():
    with judge_server(by_words) as server:
        judge = build(server, correct_above=0.5)
        rewards = judge.score(ROLLOUTS)
    third = 1 / 3
    assert rewards.total_PK.flatten().tolist() == pytest.approx([0, third, 0, 0, 0, 2 * third])
    assert torch.equal(rewards.parts["judge"], rewards.total_PK)
    assert rewards.correct_PK is not None and rewards.correct_PK.flatten().tolist() == [False] * 5 + [True]
    assert rewards.valid_PK.all() and [*rewards.parts] == ["judge"]
    assert len(server.requests) == 5  # "w2" of one prompt is asked once
    assert all(text.startswith("Below are a request") for text in questions(server))
    counts = judge.counters()
    assert counts == {
        "judge/requests": 5, "judge/tokens_read": 500, "judge/tokens_written": 15, "judge/kept": 0,
        "judge/repeated": 0, "judge/unread": 0,
    }  # fmt: skip


def test_answers_are_kept_over_runs_that_name_the_same_folder(tmp_path):
    with judge_server(by_words) as server:
        first = build(server, cache_folder=str(tmp_path)).score(ROLLOUTS)
        again = build(server, cache_folder=str(tmp_path), price_per_million_in=10.0)
        assert torch.equal(again.score(ROLLOUTS).total_PK, first.total_PK)
        assert len(server.requests) == 5
        assert again.counters()["judge/kept"] == 5 and again.counters()["judge/cost"] == 0.0
        build(server, cache_folder=str(tmp_path), max_tokens=32).score(ROLLOUTS)  # another question
        assert len(server.requests) == 10


def test_repeats_are_averaged_and_their_variance_is_a_part():
    said = iter(["1", "4", "no idea", "still none", "10"])
    with judge_server(lambda number, request: says(next(said))) as server:
        judge = build(server, repeats=4, temperature=0.5, concurrency=1, price_per_million_out=1e6)
        rewards = judge.score(make_rollouts(["w1"], 1, prompts=PROMPTS[:1]))
    scores = torch.tensor([0.0, 1 / 3, 1.0], dtype=torch.float64)
    assert rewards.total_PK.item() == pytest.approx(scores.mean().item())
    assert rewards.parts["judge_variance"].item() == pytest.approx(scores.var().item())
    assert judge.part_weights == {"judge": 1.0}
    assert {request["temperature"] for request in server.requests} == {0.5}
    assert judge.counters()["judge/cost"] == 15.0  # 3 tokens of each of the 5 answers


def test_truncated_and_masked_completions_are_not_judged():
    with judge_server(by_words) as server:
        rewards = build(server, mask_truncated_completions=True).score(ROLLOUTS)
    assert rewards.valid_PK.flatten().tolist() == [True, False, True, True, True, True]
    assert "w1 w5" not in [judged_text(request) for request in server.requests]
    assert math.isnan(rewards.parts["judge"][0, 1])


def silent_about_w3(number, request):
    return says("I cannot say" if judged_text(request) == "w3" else "Score: 10")


def test_a_completion_without_a_score_is_masked_and_counted(caplog):
    with judge_server(silent_about_w3) as server:
        judge = build(server, on_unread="mask")
        rewards = judge.score(ROLLOUTS)
        judge.score(ROLLOUTS)
    assert rewards.valid_PK.flatten().tolist() == [True, True, True, True, False, True]
    assert rewards.total_PK[1].tolist() == [1.0, 0.0, 1.0]
    assert judge.counters()["judge/unread"] == 2
    assert len([record for record in caplog.records if "gives no score for 'w3' (I cannot say)" in record.message]) == 1


def test_a_completion_without_a_score_may_have_a_fixed_one_or_end_the_run():
    with judge_server(silent_about_w3) as server:
        assert build(server, on_unread=0.25).score(ROLLOUTS).total_PK[1].tolist() == [1.0, 0.25, 1.0]
        with pytest.raises(StageError, match=r"^\[reward, prompts 4\] reward.base_url=http.* gives no score for 'w3'"):
            build(server).score(ROLLOUTS)


def test_a_chat_prompt_and_its_columns_fill_a_rubric_of_one_s_own(tmp_path):
    (tmp_path / "rubric").write_text("{{ prompt }} / {{ columns.answer }} / {{ completion }}")
    with judge_server(lambda number, request: says("Score: 5")) as server:
        judge = build(server, CHATS, rubric_file=str(tmp_path / "rubric"))
        judge.score(make_rollouts(["w1"], 1, prompts=CHATS))
    assert questions(server) == ["system: be brief\nuser: hi / w1 / w1"]


def test_groups_are_judged_side_by_side_within_one_limit():
    barrier = threading.Barrier(4, timeout=30)

    def together(number, request):
        barrier.wait()
        return says("Score: 5")

    groups = [make_rollouts([f"w{n}", f"w{n} w{n}"], 2, prompts=PROMPTS[:1]) for n in range(8)]
    with judge_server(together) as server:
        judge = build(server, concurrency=4)
        with ThreadPoolExecutor(judge.calls_at_a_time) as pool:
            assert all(rewards.valid_PK.all() for rewards in pool.map(judge.score, groups))
    assert (server.most_at_once, len(server.requests)) == (4, 16)


@pytest.mark.parametrize("trouble", [fails(500, "busy"), (200, b'{"choices": ['), fails(429, "slow down")])
def test_no_reward_is_lost_or_invented_while_the_service_is_in_trouble(trouble):
    with judge_server(lambda number, request: by_words(number, request) if number % 3 == 2 else trouble) as server:
        judge = build(server, concurrency=1)
        rewards = judge.score(ROLLOUTS)
    assert rewards.total_PK.flatten().tolist() == pytest.approx([0, 1 / 3, 0, 0, 0, 2 / 3])
    assert judge.counters()["judge/repeated"] == 10


def test_a_service_that_is_gone_ends_the_work_and_what_it_had_answered_is_kept(tmp_path):
    def dies(number, request):
        return by_words(number, request) if number < 3 else fails(500, "out of memory")

    with judge_server(dies) as server, pytest.raises(ServiceError, match=r"fails 2 times \(HTTP 500: out of memory\)"):
        build(server, concurrency=1, retries=1, cache_folder=str(tmp_path)).score(ROLLOUTS)
    with judge_server(by_words) as server:
        rewards = build(server, cache_folder=str(tmp_path)).score(ROLLOUTS)
        assert len(server.requests) == 2
    assert rewards.total_PK.flatten().tolist() == pytest.approx([0, 1 / 3, 0, 0, 0, 2 / 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 2}, r"reward.repeats=2 with reward.temperature=0: .*; type reward.temperature=0.7"),
        ({"scale": [5.0, 5.0]}, r"reward.scale=\[5,5\]"),
        ({"rubric_file": "none"}, r"reward.rubric_file=none: there is no such file"),
    ],
)
def test_wrong_keys_are_refused_before_the_service_is_asked(changes, message):
    with judge_server(by_words) as server, pytest.raises(ConfigError, match=message):
        build(server, **changes)


def test_a_service_that_is_not_there_is_refused():
    with judge_server(by_words) as server:
        pass
    with pytest.raises(ConfigError, match=rf"^reward.base_url={server.url} does not answer"):
        build(server)


def test_what_the_judge_said_of_a_completion_is_shown_with_it(caplog):
    def answer(number, request):
        return says(f"no {judged_text(request)}")

    groups = [make_rollouts([f"w{n}"], 1, prompts=PROMPTS[:1]) for n in range(8)]
    with judge_server(answer) as server:
        judge = build(server)
        with ThreadPoolExecutor(4) as pool:
            errors = [each.exception() for each in [pool.submit(judge.score, group) for group in groups]]
    assert all(f"no score for 'w{n}' (no w{n})" in str(error) for n, error in enumerate(errors))
