"""Embeddings of a service: those in process, whatever the service's form of OpenAI's reply; what is wrong is named."""

import base64
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dqo.capabilities import Closing, Counting, EncodesTexts, Stateful
from dqo.embed.fake import Fake
from dqo.embed.remote import Remote
from dqo.embed.texts.normalization import Normalize
from dqo.errors import ConfigError, ServiceError
from dqo.services import Calls
from dqo.stages import Embed
from tests.factories import make_rollouts
from tests.helpers.composing import composed_serve
from tests.helpers.http_server import Answer, HttpServer, http_server
from tests.helpers.serving import application, served

CALLS = Calls(concurrency=2, timeout=30.0, retries=1, patience=0.0)
TEXTS = ["w1 w2", "w3", "", "w1 w2", "ü 🙂", "w4 w5 w6"]
FAKE = Fake(dim=8)


def remote(url: str, *, calls: Calls = CALLS, **changes: Any) -> Remote:
    settings = {
        "model": "mine", "token_variable": "DQO_TOKEN", "dimensions": None, "prefix": "", "normalize_text": [],
        "batch": 2,
    }  # fmt: skip
    return Remote(base_url=url, calls=calls, **(settings | changes))


def embeds(*, as_base64: bool = False, scale: float = 1.0, backwards: bool = False) -> Answer:
    """The answers of a service with the encoder FAKE."""

    def item(index: int, text: str) -> dict[str, Any]:
        numbers = scale * FAKE.encode_texts([text])[0]
        coded = base64.b64encode(numbers.numpy().astype("<f4").tobytes()).decode()
        return {"object": "embedding", "index": index, "embedding": coded if as_base64 else numbers.tolist()}

    def answer(number: int, request: Any) -> tuple[int, Any]:
        data = [item(index, text) for index, text in enumerate(request["input"])]
        return 200, {"object": "list", "data": data[::-1] if backwards else data}

    return answer


def texts_of(server: HttpServer) -> list[str]:
    """All texts that were asked for after the first request, which tries the service."""
    return [text for request in server.requests[1:] for text in request["input"]]


@pytest.mark.parametrize("form", [{}, {"as_base64": True}, {"scale": 3.0}, {"backwards": True}])
def test_embeddings_are_those_of_the_encoder_at_length_1(form):
    with http_server(embeds(**form), path="/v1") as server:
        stage = remote(server.url)
        assert isinstance(stage, Embed) and isinstance(stage, EncodesTexts) and isinstance(stage, Closing)
        embeddings_PKD = stage.encode(make_rollouts(TEXTS, 3))
        stage.close()
    assert embeddings_PKD.dtype == torch.float32 and embeddings_PKD.shape == (2, 3, 8)
    torch.testing.assert_close(embeddings_PKD.flatten(0, 1), FAKE.encode_texts(TEXTS))


def test_each_distinct_text_is_asked_for_once_in_batches():
    with http_server(embeds(), path="/v1") as server:
        stage = remote(server.url, prefix="query: ", normalize_text=[Normalize.SPACE], dimensions=8)
        stage.encode_texts([*TEXTS, " w3 "])
        assert stage.encode_texts([]).shape == (0, 8)
    assert sorted(texts_of(server)) == sorted("query: " + text for text in {*TEXTS})
    assert all(len(request["input"]) <= 2 for request in server.requests) and {*server.paths} == {"/v1/embeddings"}
    assert all((each["model"], each["dimensions"]) == ("mine", 8) for each in server.requests)


def test_an_empty_text_is_sent_as_a_space_since_openai_refuses_it():
    with http_server(embeds(), path="/v1") as server:
        found_PKD = remote(server.url).encode(make_rollouts(["", "w3"], 2))
    assert sorted(texts_of(server)) == [" ", "w3"] and found_PKD.isfinite().all()


def test_it_is_dqo_serve_that_answers(monkeypatch):
    token = "a-token-of-tests"
    monkeypatch.setenv("DQO_TOKEN", token)
    with served(application(composed_serve("max_texts=4"), embed=FAKE, token=token)) as url:
        stage = remote(f"{url}/v1", calls=replace(CALLS, concurrency=8))
        with ThreadPoolExecutor(4) as threads:
            found = [*threads.map(lambda _: stage.encode(make_rollouts(TEXTS, 3)), range(8))]
        stage.close()
        with pytest.raises(
            ConfigError, match=r"HTTP 404: the model other is not here; it is mine\); does it know embed.m"
        ):
            remote(f"{url}/v1", model="other")
        monkeypatch.setenv("DQO_TOKEN", "another")
        with pytest.raises(ConfigError, match=r"refuses the key \(HTTP 401: .*\); set DQO_TOKEN in the environment"):
            remote(f"{url}/v1")
    for embeddings_PKD in found:
        torch.testing.assert_close(embeddings_PKD.flatten(0, 1), FAKE.encode_texts(TEXTS), atol=1e-6, rtol=0)


def test_another_encoder_is_noticed_on_resume():
    with http_server(embeds(), path="/v1") as server, http_server(lambda *_: FOUR, path="/v1") as other:
        stage, changed = remote(server.url), remote(other.url)
    assert isinstance(stage, Stateful)
    state = json.loads(json.dumps(stage.state_dict()))
    stage.load_state_dict(state)
    with pytest.raises(
        ConfigError, match=r"embed.model is not the encoder of the checkpoint \(embeddings of 8 numbers"
    ):
        changed.load_state_dict(state)


def test_a_failed_request_is_made_again_and_counted():
    def answer(number: int, request: Any) -> tuple[int, Any]:
        return (500, {"error": {"message": "no memory"}}) if number == 1 else embeds()(number, request)

    with http_server(answer, path="/v1") as server:
        stage = remote(server.url)
        torch.testing.assert_close(stage.encode_texts(["w1"]), FAKE.encode_texts(["w1"]))
    assert isinstance(stage, Counting) and stage.counters() == {"repeated": 1}


def item(embedding: Any, index: int = 0) -> dict[str, Any]:
    return {"index": index, "embedding": embedding}


FOUR = (200, {"data": [item([0.0, 0.0, 0.0, 1.0])]})
NAN = base64.b64encode(np.array([math.nan, 1.0], "<f4").tobytes()).decode()
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": (b"<html>", "Invalid JSON"),
    "another object": ({"embeddings": [[1.0]]}, "data: Field required"),
    "none": ({"data": []}, "0 embeddings for 1 texts"),
    "one too many": ({"data": [item([1.0]), item([1.0], 1)]}, "2 embeddings for 1 texts"),
    "another index": ({"data": [item([1.0], 1)]}, "their indices are not 0 to 0"),
    "empty": ({"data": [item([])]}, "embeddings of 0 numbers"),
    "text": ({"data": [item(["x"])]}, "data.0.embedding"),
    "null": ({"data": [item(None)]}, "data.0.embedding"),
    "no base64": ({"data": [item("#")]}, "cannot be read"),
    "a part of a number": ({"data": [item("AAAA")]}, "cannot be read"),
    "NaN": ({"data": [item(NAN)]}, "a number that is not finite"),
    "beyond float32": ({"data": [item([1e300])]}, "a number that is not finite"),
}


@pytest.mark.parametrize("body, problem", BAD.values(), ids=BAD.keys())
def test_a_service_that_answers_something_else_is_refused_before_the_run(body, problem):
    with http_server(lambda *_: (200, body), path="/v1") as server, pytest.raises(ConfigError) as caught:
        remote(server.url)
    said = str(caught.value)
    assert problem in said and said.startswith(f"embed.base_url={server.url}") and "\n" not in said


def test_embeddings_of_another_length_are_refused():
    problem = r"embeddings of 4 numbers, and embed\.dimensions=8"
    with http_server(lambda *_: FOUR, path="/v1") as server, pytest.raises(ConfigError, match=problem):
        remote(server.url, dimensions=8)


def test_a_service_that_ends_ends_the_run():
    with http_server(embeds(), path="/v1") as server:
        stage = remote(server.url)
    with pytest.raises(ServiceError, match=r"embed\.base_url=.* does not answer"):
        stage.encode_texts(["w1"])


def test_a_wrong_address_is_refused_before_the_run():
    for url, problem in [("localhost:8100", "no URL"), ("http://127.0.0.1:9", "does not answer")]:
        with pytest.raises(ConfigError, match=problem):
            remote(url)
