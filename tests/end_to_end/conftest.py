"""Whole runs, as a user types them: real processes, the tiny model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import run_in_process
from tests.helpers.shared import shared_folder

ROOT = Path(__file__).parents[2]
SMALL = (
    "model=tiny", "task=concepts", "credit=dpp", "sft.steps=30", "steps=2", "prompts_per_step=2", "k=4",
    "eval.prompts=3", "eval.every=0", "checkpoint.every=0", "log.tensorboard=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> dict[str, str]:
    """One warm start for all runs of the session, and none of the user's."""
    ours = {
        "PYTHONPATH": str(ROOT), "DQO_CACHE": str(shared_folder(tmp_path_factory, "cache")), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    return {**os.environ, **ours}


@pytest.fixture
def start(environment, tmp_path):
    """Start ``dqo-train`` in ``tmp_path``, with ``limits`` run in it first; none outlives the test. ``checked``: shapes
    and types inside the worker too, which then takes ten seconds more."""
    started = []

    def start(*arguments: str, command: str = "train", limits=None, checked: bool = False) -> subprocess.Popen:
        more = {"PYTHONPATH": f"{ROOT}:{tmp_path}", **({"DQO_TYPECHECK": "1"} if checked else {})}
        process = subprocess.Popen(
            [sys.executable, "-m", "dqo.cli", command, *arguments],
            cwd=tmp_path, env={**environment, **more}, preexec_fn=limits,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def dqo(start):
    """Run it to the end, which has to be exit ``code``; what it printed."""

    def run(*arguments: str, code: int = 0, **how) -> str:
        process = start(*arguments, **how)
        text = process.communicate(timeout=900)[0]
        assert process.returncode == code, text
        return text

    return run


@pytest.fixture
def dqo_here(environment, tmp_path, monkeypatch, capsys):
    """The same without its processes, for what does not depend on them: shapes and types are checked. What a test's own
    ``capsys`` is to read is printed again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DQO_CACHE", environment["DQO_CACHE"])

    def run(*arguments: str, code: int = 0, command: str = "train") -> str:
        capsys.readouterr()
        ended = run_in_process(command, list(arguments), monkeypatch)
        said = capsys.readouterr()
        print(said.out, end="")
        print(said.err, end="", file=sys.stderr)
        assert ended == code, said.out + said.err
        return said.out + said.err

    return run


def lines(run: Path) -> list[dict]:
    """metrics.jsonl without the times."""
    timed = ("seconds/", "tokens_per_second", "step_time")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not any(word in key for word in timed)} for row in rows]
