"""dqo-serve's application behind a real socket: the numbers of the stages in process, and what is refused."""

import asyncio
import base64
import json
import re
import threading
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from dqo.capabilities import Counting
from dqo.embed.fake import Fake
from dqo.errors import ServiceError, StageError
from dqo.records import Rewards
from dqo.wire import decode_rewards, encode_rollouts
from tests.factories import make_prompts, make_rollouts
from tests.helpers.composing import composed_serve
from tests.helpers.serving import application, served

TOKEN = "a-token-of-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EMBED = Fake(dim=16)
TEXTS = ["w1 w2", "w3", "w2 w2 w1", ""]


class Words:
    """A reward of two parts: the share of a group's words, and the number of tokens where the completion is finished.
    Truncated completions are invalid."""

    def __init__(self):
        self.go, self.began = threading.Event(), threading.Event()
        self.go.set()
        self.groups: list[int] = []  # of each call

    def score(self, rollouts) -> Rewards:
        self.began.set()
        self.go.wait()
        self.groups.append(len(rollouts.prompts))
        shape = (len(rollouts.prompts), rollouts.k)
        words_PK = torch.tensor([float(len(text.split())) for text in rollouts.texts]).view(shape)
        if (words_PK > 50).any():
            raise StageError("reward", "a text of more than 50 words", positions=[3])
        share_PK = words_PK / words_PK.sum(1, keepdim=True).clamp(min=1) / 3
        finished_PK = rollouts.finished_B.view(shape)
        tokens_PK = rollouts.sampled_BT.sum(1).view(shape).float()
        return Rewards(
            total_PK=share_PK.masked_fill(~finished_PK, 0.0),
            parts={"share": share_PK, "tokens": tokens_PK.masked_fill(~finished_PK, torch.nan)},
            correct_PK=share_PK > 0.1,
            valid_PK=finished_PK,
        )

    def counters(self) -> dict[str, int]:
        return {"long": 2}


def post(url: str, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.post(url + path, content=content, headers={"Content-Type": "application/json"} | (headers or {}))


@pytest.fixture(scope="module")
def url():
    assert isinstance(Words(), Counting)
    limits = ("max_texts=8", "waiting_texts=16", "max_characters=200", "max_body_mb=0.01")
    with served(application(composed_serve(*limits), reward=Words(), embed=EMBED, token=TOKEN)) as address:
        yield address


def test_rewards_are_those_in_process(url):
    rollouts = make_rollouts(TEXTS * 2, 4, prompts=make_prompts(2, answer="7"), finished=[True, True, False, True] * 2)
    reply = post(url, "/v1/score", encode_rollouts(rollouts), BEARER)
    assert reply.status_code == 200, reply.text
    here, there = Words().score(rollouts), decode_rewards(reply.content, rollouts)
    assert torch.equal(there.total_PK, here.total_PK) and torch.equal(there.valid_PK, here.valid_PK)
    assert there.correct_PK is not None and torch.equal(there.correct_PK, here.correct_PK)
    assert torch.equal(there.parts["share"], here.parts["share"])
    torch.testing.assert_close(there.parts["tokens"], here.parts["tokens"], equal_nan=True, rtol=0, atol=0)


def test_embeddings_are_those_in_process(url):
    expected_ND = EMBED.encode_texts(TEXTS)
    numbers = post(url, "/v1/embeddings", {"input": TEXTS, "model": "mine"}, BEARER).json()["data"]
    assert [each["index"] for each in numbers] == [0, 1, 2, 3]
    assert torch.equal(torch.tensor([each["embedding"] for each in numbers]), expected_ND)
    coded = post(url, "/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}, BEARER).json()["data"]
    rows = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in coded]
    assert np.array_equal(np.stack(rows), expected_ND.numpy())
    (one,) = post(url, "/v1/embeddings", {"input": "w1", "dimensions": 16}, BEARER).json()["data"]
    assert torch.equal(torch.tensor(one["embedding"]), EMBED.encode_texts(["w1"])[0])
    assert httpx2.get(f"{url}/v1/models", headers=BEARER).json()["data"][0]["id"] == "mine"


@pytest.mark.parametrize("path", ["/", "/get_reward"])
def test_openrlhf_gets_its_form(url, path):
    body = {"query": ["ask w1<eos>", "ask w1 w2<eos>"], "prompts": ["ask ", "ask "], "labels": [None, "x"]}
    third = pytest.approx(1 / 3)
    assert post(url, path, body, BEARER).json() == {
        "rewards": [third, third], "scores": [third, third],
        "extra_logs": {"share": [third, third], "tokens": [2.0, 3.0]},
    }  # fmt: skip
    assert post(url, path, {"query": []}, BEARER).json() == {"rewards": [], "scores": [], "extra_logs": {}}


GROUP = {"prompt": "p", "completions": [{"text": "w1"}]}
REFUSED = {
    "another kind of JSON": ("/v1/score", [], 422, "Input should be"),
    "no JSON": ("/v1/score", b'{"groups": [', 422, "the body is no JSON: "),
    "an unknown key": ("/v1/score", {"groups": [{**GROUP, "answer": 1}]}, 422, "groups.0.answer: Extra inputs"),
    "a group of none": ("/v1/score", {"groups": [{**GROUP, "completions": []}]}, 422, "at least 1 item"),
    "a token below 0": ("/v1/score", {"groups": [{**GROUP, "tokens": [-1]}]}, 422, "groups.0.tokens.0"),
    "a token beyond 64 bits": ("/v1/score", {"groups": [{**GROUP, "tokens": [2**80]}]}, 422, "groups.0.tokens.0"),
    "other marks than tokens": (
        "/v1/score",
        {"groups": [{"prompt": "p", "completions": [{"text": "w1", "tokens": [3, 4], "sampled": [True]}]}]},
        422,
        "sampled has 1 entries for 2 tokens",
    ),
    "too many texts": ("/v1/embeddings", {"input": ["w1"] * 9}, 422, "9 texts in a request; at most 8 (max_texts)"),
    "a long text": ("/v1/embeddings", {"input": "x" * 201}, 422, "a text of 201 characters; at most 200"),
    "a large body": ("/v1/embeddings", {"input": "x" * 20_000}, 413, ""),
    "tokens in place of a text": ("/v1/embeddings", {"input": [1, 2]}, 422, "input."),
    "another model": ("/v1/embeddings", {"input": "w1", "model": "other"}, 404, "the model other is not here"),
    "another width": ("/v1/embeddings", {"input": "w1", "dimensions": 8}, 422, "dimensions=8: this encoder has 16"),
    "what the reward refuses": ("/get_reward", {"query": ["w1 " * 60 + "<eos>"]}, 422, "a text of more than 50 words"),
    "truncated": ("/get_reward", {"query": ["w1"]}, 422, "query 0 cannot be judged"),
    "not the prompt": ("/get_reward", {"query": ["w1"], "prompts": ["p"]}, 422, "query 0 does not begin with"),
    "another path": ("/v1/chat/completions", {}, 404, "Not Found"),
}  # fmt: skip


@pytest.mark.parametrize("path, body, status, said", REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_request_is_refused_in_one_line(url, path, body, status, said):
    reply = post(url, path, body, BEARER)
    assert reply.status_code == status and said in reply.text and reply.text.count("\n") == 0


def test_nothing_but_health_answers_without_the_token(url):
    assert httpx2.get(f"{url}/health").json() == {"status": "ok"}
    wrong = ("Bearer wrong", TOKEN, f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}s", "Bearer")
    for headers in ({}, *({"Authorization": each} for each in wrong)):
        for path in ("/", "/metrics", "/openapi.json", "/v1/models"):
            assert httpx2.get(url + path, headers=headers).status_code == 401
        reply = post(url, "/v1/score", b"{", headers)  # the body is not even parsed
        assert reply.status_code == 401 and reply.headers["WWW-Authenticate"] == "Bearer"


def test_a_large_body_of_unknown_length_is_refused(url):
    def chunks():
        yield from (b'{"input": "' + b"x" * 1000 for _ in range(20))

    assert httpx2.post(f"{url}/v1/embeddings", content=chunks(), headers=BEARER).status_code == 413


def test_numbers_of_the_service(url):
    post(url, "/v1/embeddings", {"input": TEXTS}, BEARER)
    text = httpx2.get(f"{url}/metrics", headers=BEARER).text
    assert re.search(r'dqo_requests_total{path="/v1/embeddings",status="200"} \d', text)
    assert re.search(r'dqo_batch_texts_sum{stage="embed"} \d', text)
    assert 'dqo_failures_total{name="long",stage="reward"} 2' in text
    assert 'dqo_waiting_texts{stage="embed"} 0' in text


def test_the_page_loads_nothing_from_elsewhere(url):
    html = httpx2.get(url, headers=BEARER).text
    assert "POST /v1/score" in html and "ScoreRequest" in html and "GroupRewards" in html
    assert not re.search(r"(src|href)=.?http|<script|@import", html)
    paths = httpx2.get(f"{url}/openapi.json", headers=BEARER).json()["paths"]
    assert {"/v1/score", "/v1/embeddings", "/get_reward", "/health", "/metrics"} <= paths.keys()


def test_a_service_of_one_stage_has_no_path_for_the_other():
    with served(application(composed_serve(), embed=EMBED)) as url:
        assert post(url, "/v1/score", {"groups": [GROUP]}).status_code == 404
        assert post(url, "/v1/embeddings", {"input": "w1"}).status_code == 200


def test_a_client_that_waits_is_refused_where_too_many_texts_wait():
    reward = Words()
    reward.go.clear()
    config = composed_serve("waiting_texts=4", "max_texts=4")
    with served(application(config, reward=reward)) as url:
        first = threading.Thread(target=post, args=(url, "/v1/score", {"groups": [GROUP] * 4}))
        first.start()
        reward.began.wait()
        refused = post(url, "/v1/score", {"groups": [GROUP]})
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert httpx2.get(f"{url}/health").status_code == 200, "the service answers while it works"
        reward.go.set()
        first.join()
        assert post(url, "/v1/score", {"groups": [GROUP]}).status_code == 200


def test_what_a_client_that_has_left_waited_for_is_dropped():
    reward = Words()
    reward.go.clear()
    with served(application(composed_serve(), reward=reward)) as url:
        first = threading.Thread(target=post, args=(url, "/v1/score", {"groups": [GROUP]}))
        first.start()
        reward.began.wait()
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{url}/v1/score", json={"groups": [GROUP] * 3}, timeout=0.3)
        while 'dqo_waiting_texts{stage="reward"} 1.0' not in httpx2.get(f"{url}/metrics").text:
            pass  # until the service has noticed
        reward.go.set()
        first.join()
        assert post(url, "/v1/score", {"groups": [GROUP] * 2}).status_code == 200
    assert reward.groups == [1, 2]


class Broken:
    """A class of a user's with a fault, and numbers that are none."""

    def score(self, rollouts) -> Rewards:
        return rollouts.prompts[0].columns["answer"]

    def encode(self, rollouts) -> torch.Tensor:
        return torch.tensor([[[1.0, torch.nan] for _ in rollouts.texts]])


def test_a_fault_of_a_users_class_is_told(caplog):
    with served(application(composed_serve(), reward=Broken(), embed=Broken())) as url:
        for _ in range(2):
            reply = post(url, "/v1/score", {"groups": [GROUP]})
            assert reply.status_code == 500 and reply.json() == {"detail": "KeyError: 'answer'"}
        reply = post(url, "/v1/embeddings", {"input": "w1"})
        assert reply.status_code == 422 and reply.json()["detail"] == "no finite embedding for 'w1'"
    assert sum(record.exc_info is not None for record in caplog.records) == 1


async def _asked(url: str, clients: int, rounds: int) -> list[Any]:
    """Each client's answers to requests of its own, one after the other; where it is refused, it asks again."""

    async def client(number: int) -> list[float]:
        answers = []
        async with httpx2.AsyncClient(timeout=60) as http:
            while len(answers) < rounds:
                count = 1 + (number + len(answers)) % 5
                group = {"prompt": "p", "completions": [{"text": "w1 " * count}, {"text": "w1"}]}
                reply = await http.post(f"{url}/v1/score", json={"groups": [group]})
                if reply.status_code == 503:
                    await asyncio.sleep(0.05)
                    continue
                answers.append(reply.json()["groups"][0]["total"][0] - count / (count + 1) / 3)
        return answers

    return await asyncio.gather(*map(client, range(clients)))


def test_64_clients_get_their_own_answers():
    reward = Words()
    config = composed_serve("waiting_texts=96", "max_texts=8", "batch_texts=16")
    with served(application(config, reward=reward)) as url:
        differences = asyncio.run(_asked(url, 64, 3))
    assert [len(each) for each in differences] == [3] * 64
    assert max(abs(difference) for each in differences for difference in each) < 1e-6
    assert sum(reward.groups) == 64 * 3 and max(reward.groups) == 8, "clients share batches, as large as allowed"


def test_clients_wait_for_a_service_whose_own_judge_is_away():
    class Away(Words):
        def score(self, rollouts) -> Rewards:
            raise ServiceError("reward", "the judge does not answer")

    with served(application(composed_serve(), reward=Away())) as address:
        reply = post(address, "/v1/score", encode_rollouts(make_rollouts(["w1"], 1)))
    assert (reply.status_code, reply.json()) == (503, {"detail": "the judge does not answer"})
    assert reply.headers["retry-after"] == "1"
