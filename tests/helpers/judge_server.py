"""A service on the loopback that answers as OpenAI's chat completions do."""

from contextlib import AbstractContextManager
from typing import Any

from tests.helpers.http_server import Answer, HttpServer, http_server

USAGE = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}


def says(text: str | None) -> tuple[int, dict[str, Any]]:
    """The answer of a model that says ``text``."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return 200, reply


def fails(status: int, message: str) -> tuple[int, dict[str, Any]]:
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "x", "param": None, "code": None}}


def questions(server: HttpServer) -> list[str]:
    """The first message of each request."""
    return [request["messages"][0]["content"] for request in server.requests]


def judge_server(answer: Answer, *, models: tuple[int, Any] = (404, {})) -> AbstractContextManager[HttpServer]:
    """Answers chat completions by ``answer``, and a request for the list of models by ``models``."""
    return http_server(answer, got=models, path="/v1")
