"""A service on the loopback that answers as OpenAI's chat completions do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# the status and the body of the answer to a request: its number from 0, and its JSON
Answer = Callable[[int, dict[str, Any]], tuple[int, Any]]
USAGE = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}


def says(text: str | None) -> tuple[int, dict[str, Any]]:
    """The answer of a model that says ``text``."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    reply = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
    return 200, reply


def fails(status: int, message: str) -> tuple[int, dict[str, Any]]:
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "x", "param": None, "code": None}}


@dataclass
class JudgeServer:
    """``requests`` are those for chat completions, in the order in which they came."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0

    def questions(self) -> list[str]:
        """The first message of each request."""
        return [request["messages"][0]["content"] for request in self.requests]


@contextmanager
def judge_server(answer: Answer, *, models: tuple[int, Any] = (404, {})) -> Iterator[JudgeServer]:
    """Answers chat completions by ``answer``, and a request for the list of models by ``models``. A client that is to
    try again does so after a millisecond."""
    lock, running = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*models)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running[0] += 1
                server.most_at_once = max(server.most_at_once, running[0])
                server.keys.append(self.headers["Authorization"])
                server.requests.append(request)
                number = len(server.requests) - 1
            try:
                status, body = answer(number, request)
            finally:
                with lock:
                    running[0] -= 1
            self._send(status, body)

        def _send(self, status: int, body: Any) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has left is no error."""

    http = Server(("127.0.0.1", 0), Handler)
    server = JudgeServer(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
