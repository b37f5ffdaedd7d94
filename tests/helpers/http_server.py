"""A service on the loopback whose answers a test gives."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# the status and the body of the answer to a request: its number from 0, and its JSON
Answer = Callable[[int, Any], tuple[int, Any]]


@dataclass
class HttpServer:
    """``requests`` are the bodies that were posted, in the order in which they came; ``paths`` and ``keys`` those of
    each request."""

    url: str
    requests: list[Any] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def port(self) -> int:
        """To start another server in its place."""
        return int(self.url.split(":")[2].partition("/")[0])


class Hangup(Exception):
    """Raised by an answer: the connection is closed without one."""


@contextmanager
def http_server(
    answer: Answer, *, got: tuple[int, Any] = (405, {}), path: str = "", port: int = 0
) -> Iterator[HttpServer]:
    """Answers what is posted by ``answer``, and what is asked for by ``got``; a body of bytes is sent as it is. A
    client that is to try again does so after a millisecond."""
    lock, running = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*got)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                running[0] += 1
                server.most_at_once = max(server.most_at_once, running[0])
                server.keys.append(self.headers["Authorization"])
                server.paths.append(self.path)
                server.requests.append(request)
                number = len(server.requests) - 1
            try:
                status, body = answer(number, request)
            except Hangup:
                return
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

    http = Server(("127.0.0.1", port), Handler)
    server = HttpServer(f"http://127.0.0.1:{http.server_address[1]}{path}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
