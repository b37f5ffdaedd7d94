"""dqo-serve as a command: wrong addresses and tokens, and a stop that answers what it has begun."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest

from dqo.errors import ConfigError
from dqo.run.serve import _bound, _listen
from tests.helpers.commands import run_in_process
from tests.helpers.composing import composed_serve

QUICK = ("task=concepts", "model=tiny", "embed=fake", "device=cpu", "port=0")


@pytest.fixture
def serve(monkeypatch, capfd, tmp_path):
    """Runs dqo-serve in an empty folder; returns the exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DQO_TOKEN", raising=False)

    def run(*arguments: str) -> tuple[int, str]:
        code = run_in_process("serve", [*QUICK, *arguments], monkeypatch)
        return code, capfd.readouterr().err

    return run


@pytest.mark.parametrize("token", ["short", "", "with a space in it", "kein-Zeichen-für-Köpfe"])
def test_a_token_that_no_client_can_send_is_refused(serve, monkeypatch, token):
    monkeypatch.setenv("DQO_TOKEN", token)
    code, err = serve()
    assert code == 2 and "a token has at least 8 letters, digits and signs" in err and err.count("\n") == 1
    assert not token or token not in err


def test_a_port_that_is_taken_is_refused_before_a_model_is_read(serve):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, err = serve(f"port={taken.getsockname()[1]}", "model=hf", "model.path=no/such/model")
    assert code == 2 and "cannot be listened at (Address already in use); type port=0" in err


def test_of_two_servers_that_are_bound_to_a_port_the_second_is_refused():
    with _bound(composed_serve("port=0")) as first:
        same = composed_serve(f"port={first.getsockname()[1]}")
        with _bound(same) as second:
            first.listen()
            with pytest.raises(ConfigError, match=r"cannot be listened at \(Address already in use\); type port=0"):
                _listen(same, second)


SLOW = """
import pathlib, time
def score(prompts, completions, **columns):
    pathlib.Path("began").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return [1.0] * len(completions)
"""


@pytest.mark.slow
def test_sigterm_ends_it_after_the_requests_that_run(tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    arguments = [*QUICK, "reward=python", "reward.function=slow.py:score"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dqo.cli", "serve", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    line = next(line for line in process.stderr if "listening" in line)
    (url,) = re.findall(r"http://\S+:\d+", line)
    replies: list[httpx2.Response] = []
    body = {"groups": [{"prompt": "p", "completions": [{"text": "dog"}]}]}
    client = threading.Thread(target=lambda: replies.append(httpx2.post(f"{url}/v1/score", json=body, timeout=60)))
    client.start()
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    client.join()
    assert json.loads(replies[0].content)["groups"][0]["total"] == [1.0]
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err.endswith("stopped\n"), err
    assert {path.name for path in tmp_path.iterdir()} <= {"slow.py", "began", "go", "__pycache__"}
