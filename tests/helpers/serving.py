"""The application of dqo-serve behind a socket of this machine, as ``dqo-serve`` runs it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from dqo.config.schema import ServeConfig
from dqo.run.serving.app import create_app
from dqo.run.serving.stages import Encoder, Scorer
from tests.factories import word_tokenizer


def application(config: ServeConfig, *, reward: Any = None, embed: Any = None, token: str | None = None) -> Any:
    """The application around stages of a test; the tokenizer knows the words of ``factories``."""
    return create_app(
        config,
        scorer=reward and Scorer(reward, word_tokenizer()),
        encoder=embed and Encoder(embed, "mine"),
        token=token,
    )


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of the application, which answers within the block."""
    listener = socket.create_server(("127.0.0.1", 0))  # connections wait until uvicorn takes them
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
