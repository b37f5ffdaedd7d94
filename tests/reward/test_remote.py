import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dqo import services
from dqo.errors import ConfigError, ServiceError, StageError
from dqo.records import Rewards
from dqo.reward.remote import Form, Remote
from dqo.services import Calls
from dqo.wire import ScoreReply, ScoreRequest, decode_rollouts, encode_rewards
from tests.factories import make_rollouts, word_tokenizer
from tests.helpers.composing import composed_serve
from tests.helpers.http_server import Hangup, http_server
from tests.helpers.serving import application, served
from tests.helpers.toy_stages import EvenReward
from tests.reward.tasks import PROMPTS, ROLLOUTS, FixedPrompts, prompt


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(services, "FIRST_WAIT", 0.01)


def build(*servers, prompts=PROMPTS, **changes) -> Remote:
    asking = {"concurrency": 4, "retries": 5, "timeout": 5.0, "patience": 30.0}
    asking |= {name: changes.pop(name) for name in tuple(changes) if name in asking}
    settings = {
        "form": Form.openrlhf, "label_column": None, "batch": 64, "correct_above": None,
        "mask_truncated_completions": False,
    } | changes  # fmt: skip
    urls = [server if isinstance(server, str) else server.url for server in servers]
    url = urls[0] if len(urls) == 1 else urls
    return Remote(FixedPrompts(prompts=tuple(prompts)), word_tokenizer(), url=url, calls=Calls(**asking), **settings)


def by_length(number, request):
    """A tenth of the response's words, end token included."""
    pairs = zip(request["query"], request["prompts"], strict=True)
    return 200, {"rewards": [len(query.removeprefix(text).split()) / 10 for query, text in pairs]}


BY_LENGTH = [0.2, 0.2, 0.2, 0.2, 0.2, 0.4]  # "w1 w5" is truncated: no end token


def by_dqo(number, request):
    """As dqo-serve: 1 for the column ``answer``; two parts; a text of three words is invalid."""
    groups = []
    for group in ScoreRequest.model_validate(request).groups:
        rollouts = decode_rollouts(group, lambda completion: ())
        right_PK = torch.tensor([[text == group.columns["answer"] for text in rollouts.texts]])
        valid_PK = torch.tensor([[len(text.split()) < 3 for text in rollouts.texts]])
        parts = {"right": right_PK.float(), "other": torch.full(right_PK.shape, math.nan)}
        total_PK = (right_PK / 3).masked_fill(~valid_PK, 0.0)
        groups += encode_rewards(Rewards(total_PK=total_PK, parts=parts, correct_PK=right_PK, valid_PK=valid_PK))
    return 200, json.loads(ScoreReply(groups=groups).model_dump_json())


def test_openrlhf_s_form(monkeypatch):
    monkeypatch.setenv("DQO_TOKEN", "of the test")
    with http_server(by_length, path="/get_reward") as server:
        rewards = build(server, label_column="answer", correct_above=0.3).score(ROLLOUTS)
    assert rewards.total_PK.flatten().tolist() == pytest.approx(BY_LENGTH)
    assert torch.equal(rewards.parts["remote"], rewards.total_PK)
    assert rewards.correct_PK is not None and rewards.correct_PK.flatten().tolist() == [False] * 5 + [True]
    assert rewards.valid_PK.all()
    (request,) = server.requests
    assert (server.paths, server.keys) == (["/get_reward"], ["Bearer of the test"])
    assert request["query"][0] == "w0 w1 w5 w1 <eos>" and request["prompts"][0] == "w0 w1 w5"
    assert request["query"][1] == "w0 w1 w5 w1 w5"
    assert request["labels"] == ["w1"] * 3 + ["w2"] * 3


def test_labels_are_text_or_null():
    prompts = (prompt(3, answer=None), prompt(4, answer=[1, 2]))
    with http_server(by_length) as server:
        build(server, prompts=prompts, label_column="answer").score(make_rollouts(["w1", "w2"], 1, prompts=prompts))
        build(server, prompts=prompts).score(make_rollouts(["w1"], 1, prompts=prompts[:1]))
    assert [request["labels"] for request in server.requests] == [[None, "[1, 2]"], [None]]


@pytest.mark.parametrize("batch", [1, 2, 5, 6])
def test_batches_change_no_number(batch):
    with http_server(by_length) as server:
        rewards = build(server, batch=batch).score(ROLLOUTS)
    assert rewards.total_PK.flatten().tolist() == pytest.approx(BY_LENGTH)
    assert sorted(len(request["query"]) for request in server.requests) == sorted(
        [batch] * (6 // batch) + [6 % batch] * (6 % batch > 0)
    )


@pytest.mark.parametrize(("batch", "requests"), [(1, 2), (3, 2), (6, 1)])
def test_dqo_s_form_sends_whole_groups(batch, requests):
    with http_server(by_dqo) as server:
        rewards = build(server, form=Form.dqo, batch=batch).score(ROLLOUTS)
    third = float(torch.tensor(1 / 3))
    assert rewards.total_PK.tolist() == [[third, 0.0, 0.0], [third, 0.0, 0.0]]
    assert rewards.parts["right"].tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    assert rewards.parts["other"].isnan().all()
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False, False]] * 2
    assert rewards.valid_PK.tolist() == [[True] * 3, [True, True, False]]
    assert server.paths == ["/v1/score"] * requests


@pytest.mark.parametrize("form", [Form.dqo, Form.openrlhf])
def test_truncated_and_masked_completions_count_for_nothing(form):
    with http_server(by_dqo if form == Form.dqo else by_length) as server:
        rewards = build(server, form=form, mask_truncated_completions=True, correct_above=-1.0).score(ROLLOUTS)
    assert rewards.valid_PK[0].tolist() == [True, False, True]
    assert rewards.correct_PK is not None and rewards.correct_PK[0].tolist() == [True, False, True]
    assert rewards.total_PK[0, 1] == 0.0
    if form == Form.openrlhf:
        assert len(server.requests[0]["query"]) == 5
        assert math.isnan(rewards.parts["remote"][0, 1])


def test_nothing_is_sent_where_nothing_is_judged():
    rollouts = make_rollouts(["w1", "w2"], 2, finished=[False, False], prompts=PROMPTS[:1])
    with http_server(by_length) as server:
        rewards = build(server, mask_truncated_completions=True).score(rollouts)
    assert not rewards.valid_PK.any() and not server.requests


@pytest.mark.parametrize(
    "trouble",
    [(500, b"oh"), (200, b"{"), (200, {"rewards": [1.0]}), (200, {"rewards": [None] * 6}), (503, b"starting")],
)
def test_no_reward_is_lost_or_invented_while_the_service_is_in_trouble(trouble):
    with http_server(lambda number, request: trouble if number < 5 else by_length(number, request)) as server:
        reward = build(server)
        assert reward.score(ROLLOUTS).total_PK.flatten().tolist() == pytest.approx(BY_LENGTH)
    assert (reward.counters(), len(server.requests)) == ({"remote/repeated": 5}, 6)


def test_a_service_that_dies_and_comes_back_loses_no_reward(monkeypatch):
    """Requests are lost with their connection; then nothing listens, until a request has been refused."""
    refused = threading.Event()

    def die(number, request):
        raise Hangup

    groups = [make_rollouts([f"w{n}", f"w{n} w{n}"], 2, prompts=PROMPTS[:1]) for n in range(6)]
    with ThreadPoolExecutor(3) as pool:
        with http_server(die) as first:
            reward = build(first, batch=1, retries=0)
            note = reward._service._note_down

            def noted(host, request, failure):
                note(host, request, failure)
                if "refused" in str(failure):
                    refused.set()

            monkeypatch.setattr(reward._service, "_note_down", noted)
            scored = [pool.submit(reward.score, group) for group in groups]
        assert refused.wait(30)
        with http_server(by_length, port=first.port):
            totals = [each.result(60).total_PK.tolist() for each in scored]
    assert totals == [[[pytest.approx(0.2), pytest.approx(0.3)]]] * 6


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, {"rewards": [1.0] * 5}), r'fails 2 times \(cannot be read: "rewards" has 5 values for 6 texts\)'),
        ((200, b'{"rewards": [NaN, 1, 1, 1, 1, 1]}'), r'"rewards"\[0\] is nan, a finite number is needed'),
        ((200, {"rewards": ["1"] * 6}), r"is '1', a finite number is needed"),
        ((500, b"no memory"), r"fails 2 times \(HTTP 500: no memory\)"),
        ((413, b""), r"refuses the request \(HTTP 413\); type reward.batch=32$"),
        ((401, b""), r"refuses the key \(HTTP 401\); set DQO_TOKEN in the environment$"),
        ((404, b""), r"refuses the request \(HTTP 404\); type the whole reward.url, as in reward.url=http://HOST:5000"),
        ((503, b""), r"does not answer \(HTTP 503\), though it was waited for 0 s; start that service"),
    ],
)
def test_what_does_not_get_better_ends_the_work_in_one_line(answer, message):
    with (
        http_server(lambda number, request: answer) as server,
        pytest.raises(ServiceError, match=rf"^\[reward\] reward.url={server.url} .*{message}"),
    ):
        build(server, retries=1, patience=0.1).score(ROLLOUTS)


def test_addresses_that_score_differently_are_noticed():
    def other(number, request):
        status, reply = by_dqo(number, request)
        return status, {"groups": [{**group, "parts": {"wrong": group["parts"]["right"]}} for group in reply["groups"]]}

    barrier = threading.Barrier(2, timeout=30)

    def together(answer):
        def wait(number, request):
            barrier.wait()
            return answer(number, request)

        return wait

    with (
        http_server(together(by_dqo)) as one,
        http_server(together(other)) as two,
        pytest.raises(ServiceError, match="do not score alike: they give the parts other, right and wrong"),
    ):
        build(one, two, form=Form.dqo, batch=3).score(ROLLOUTS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label_column": "right"},
            r"^reward.label_column=right: there is no such column; there are answer, id; type reward.label_column=",
        ),
        ({"url": "host:5000"}, r"^reward.url=host:5000: no URL; type reward.url=http://HOST:PORT$"),
        ({"url": "http://127.0.0.1:9"}, r"^reward.url=http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_keys_are_refused_before_any_work(changes, message):
    with http_server(by_length) as server, pytest.raises(ConfigError, match=message):
        build(changes.pop("url", server), **changes)


def test_a_wrong_token_of_dqo_serve_is_refused_before_any_work(monkeypatch):
    monkeypatch.setenv("DQO_TOKEN", "another")
    app = application(composed_serve(), reward=EvenReward(), token="a-token-of-tests")
    with served(app) as url, pytest.raises(ConfigError, match=r"refuses the key \(HTTP 401: .*\); set DQO_TOKEN in"):
        build(url, form=Form.dqo)


def test_a_wrong_path_of_an_openrlhf_server_is_refused_before_any_work():
    with (
        http_server(lambda number, request: (404, {"detail": "Not Found"}), got=(404, {})) as server,
        pytest.raises(ConfigError, match=r"\(HTTP 404: Not Found\); type the whole reward.url, as in reward.url="),
    ):
        build(server)
    assert server.requests == [{"query": [], "prompts": [], "labels": []}]
    with http_server(lambda number, request: (200, {"rewards": []}), got=(404, {})) as server:
        build(server)  # a path that knows POST alone and says 404 to GET


def test_a_service_that_is_no_dqo_serve_is_refused_before_any_work():
    with (
        http_server(by_dqo, got=(404, {"detail": "Not Found"})) as server,
        pytest.raises(ConfigError, match=r"\(HTTP 404: Not Found\); type reward.url=http://HOST:PORT of a dqo-serve$"),
    ):
        build(server, form=Form.dqo)


def test_no_address_is_refused():
    settings = {
        "form": Form.dqo, "label_column": None, "batch": 1, "correct_above": None, "mask_truncated_completions": False,
    }  # fmt: skip
    calls = Calls(concurrency=1, retries=0, timeout=1.0, patience=0.0)
    with pytest.raises(ConfigError, match=r"^reward.url=\[\]: an address is needed; type"):
        Remote(FixedPrompts(prompts=PROMPTS), word_tokenizer(), url=[], calls=calls, **settings)


def test_a_column_that_json_cannot_hold_is_named():
    prompts = (prompt(3, answer="w1", image=b"\x00"),)
    with http_server(by_dqo) as server, pytest.raises(StageError, match=r"prompts 3\] reward=remote: .*column image"):
        build(server, prompts=prompts, form=Form.dqo).score(make_rollouts(["w1"], 1, prompts=prompts))
