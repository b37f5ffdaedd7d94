"""``dqo-serve``: a reward and an encoder behind HTTP, until a signal."""

import contextlib
import importlib.util
import ipaddress
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any

from dqo.capabilities import Closing
from dqo.config.credentials import SHORTEST
from dqo.config.schema import ServeConfig
from dqo.errors import ConfigError
from dqo.run.build import make_device, make_encoder, make_reward
from dqo.run.job import Job
from dqo.run.load_policy import prepare_policy

log = logging.getLogger(__name__)

PACKAGES = ("fastapi", "starlette", "uvicorn", "prometheus_client")
TOKEN = "DQO_TOKEN"
IDLE_CONNECTION = 75  # seconds: longer than a learner's step, most often


def run(job: Job) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that run then are answered. Raises ConfigError, before any model is
    loaded, for an address that cannot be used and for one that others reach without a token."""
    assert isinstance(job.config, ServeConfig)
    config = job.config
    _require_packages()
    token = _token()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(config))
        _refuse_strangers(config, listener, token)
        app = application(config, token, stack)
        _serve(job, config, app, listener)


def application(config: ServeConfig, token: str | None, stack: contextlib.ExitStack) -> Any:
    """The application with its stages, which ``stack`` will close."""
    from dqo.run.serving.app import create_app
    from dqo.run.serving.stages import Encoder, Scorer

    scorer = encoder = None
    if "reward" in config.serve:
        prepared = prepare_policy(config)
        reward = make_reward(config, prepared.task, prepared.tokenizer, prepared.device)
        scorer = Scorer(_closed_by(stack, reward), prepared.tokenizer)
    if "embed" in config.serve:
        embed = _closed_by(stack, make_encoder(config, make_device(config)))
        encoder = Encoder(embed, config.model_name or _name(config.embed))
    return create_app(config, scorer=scorer, encoder=encoder, token=token)


def _serve(job: Job, config: ServeConfig, app: Any, listener: socket.socket) -> None:
    import uvicorn

    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_keep_alive=IDLE_CONNECTION,
        timeout_graceful_shutdown=max(1, round(config.grace)),
    )  # fmt: skip
    server = uvicorn.Server(settings)

    def stop(said: str) -> None:
        server.should_exit = True

    _listen(config, listener)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d (%s); Ctrl-C ends", f"[{host}]" if ":" in host else host, port, _what(config))
    with job.stopping.after_the_step(stop):  # a signal sets a flag; uvicorn answers what it has begun
        server.run(sockets=[listener])
    log.info("stopped")


def _what(config: ServeConfig) -> str:
    return ", ".join(f"{group}={_name(getattr(config, group))}" for group in config.serve)


def _name(node: Mapping[str, Any]) -> str:
    """A model's name, or that of the option."""
    return str(node.get("model") or node["_target_"].rpartition(".")[2].lower())


def _closed_by(stack: contextlib.ExitStack, stage: Any) -> Any:
    if isinstance(stage, Closing):
        stack.callback(stage.close)
    return stage


def _require_packages() -> None:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"dqo-serve needs the package {name}; type pip install 'dqo-rl[serve]'")


def _token() -> str | None:
    """The token that clients have to send; None: $DQO_TOKEN is not set. Raises ConfigError for one that no header
    takes, or that is too short."""
    token = os.environ.get(TOKEN)
    if token is None:
        return None
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"${TOKEN} has {len(token)} characters; a token has at least {SHORTEST} letters, digits and signs, without "
            f"spaces; type export {TOKEN}=$(openssl rand -hex 16)"
        )
    return token


def _bound(config: ServeConfig) -> socket.socket:
    """A socket at the address. Nobody can connect before it listens, when the models are loaded."""
    try:
        family, *_, address = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        raise _no_listening(config, error) from error
    return listener


def _listen(config: ServeConfig, listener: socket.socket) -> None:
    """Raises ConfigError where another server, which was bound to the port, too, has listened first."""
    try:
        listener.listen()
    except OSError as error:
        raise _no_listening(config, error) from error


def _no_listening(config: ServeConfig, error: OSError | UnicodeError) -> ConfigError:
    why = getattr(error, "strerror", None) or error
    return ConfigError(
        f"host={config.host} port={config.port}: cannot be listened at ({why}); type port=0 for any free port, or "
        "host=127.0.0.1"
    )


def _refuse_strangers(config: ServeConfig, listener: socket.socket, token: str | None) -> None:
    if token is None and not ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback:
        raise ConfigError(
            f"host={config.host}: other machines reach it, and ${TOKEN} is not set; type export "
            f"{TOKEN}=$(openssl rand -hex 16), or host=127.0.0.1"
        )
