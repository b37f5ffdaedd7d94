"""dqo-sample in this process, and in processes of its own: a pipe, and a terminal."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from dqo.credit.none import NoCredit
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.run.sample import Showing
from tests.helpers.commands import run_in_process
from tests.helpers.composing import composed_sample
from tests.helpers.scripted_stages import ScriptedRollout, scripted_stages
from tests.helpers.toy_stages import TextTask

QUICK = ("tiny", "task=concepts", "rollout=fake", "embed=fake", "credit=dpp", "device=cpu", "k=4")


@pytest.fixture
def sample(monkeypatch, capfd, tmp_path):
    """Runs dqo-sample in an empty folder; returns the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, base=QUICK) -> tuple[int, str, str]:
        code = run_in_process("sample", [*base, *arguments], monkeypatch)
        return code, *capfd.readouterr()

    return run


def test_a_held_out_prompt_is_judged_and_shown(sample, tmp_path):
    code, out, err = sample("index=2", "choose=2", "max_completion_length=3")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["#", "chosen", "reward", "correct", "credit", "tokens", "end", "completion"] in lines
    assert sum("★" in line for line in lines) == 2 and "cosines" in out
    assert [*tmp_path.iterdir()] == [], "it leaves nothing"


def test_json_is_alone_on_stdout_and_repeats(sample):
    prompt = 'prompt=dog, ball: "park" ${k} {x} [y] it\'s :'
    _, out, _ = sample(prompt, "json=true", "choose=2")
    record = json.loads(out)
    assert record["prompt"] == prompt.removeprefix("prompt=") and record["policy"] == "tiny"
    assert [each["reward"] for each in record["completions"]] == [None] * 4
    assert sorted(each["chosen"] or 0 for each in record["completions"]) == [0, 0, 1, 2]
    assert sample(prompt, "json=true", "choose=2")[1] == out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index=0", "prompt=x"], "prompt and index=0: one prompt is asked"),
        (["prompt=  "], "prompt is empty; type prompt="),
        (["index=100000"], "index=100000: the task holds out 200 prompts; type 0 to 199"),
        (["index=-1"], "index=-1"),
        (["index=0", "choose=5"], "choose=5: 4 completions are sampled; type choose=2, or k=10"),
        (["index=0", "choose=0"], "choose=0"),
        (["index=0", "pick=best"], "pick=best"),
        (["prompt=" + "dog " * 200], "prompt=: the prompt has"),
        (["prompt=x", "second"], "dqo-sample shows one policy"),
        (["prompt=x", "-m"], "-m: this command makes no sweep"),
    ],
    ids=lambda value: value[-1][:20] if isinstance(value, list) else None,
)
def test_wrong_input_is_one_line_and_leaves_nothing(sample, tmp_path, arguments, message):
    code, out, err = sample(*arguments)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert err.startswith("dqo-sample: ") and message in err
    assert [*tmp_path.iterdir()] == []


def test_no_policy_and_a_folder_without_one(sample, tmp_path):
    assert "no policy is named; type a run folder" in sample("prompt=x", base=())[2]
    (tmp_path / "empty").mkdir()
    code, _, err = sample("./empty", "prompt=x", base=())
    assert code == 2 and err.count("\n") == 1 and "empty: has no config.json" in err


class Decoding(ScriptedRollout):
    """Keeps the temperatures that it was given."""

    def __init__(self, texts):
        super().__init__(texts)
        self.temperatures = []

    def set_decoding(self, **settings: float) -> None:
        self.temperatures.append(settings["temperature"])


def showing(rollout: type[ScriptedRollout] = ScriptedRollout) -> tuple[Showing, Any, Prompt]:
    texts = dict.fromkeys(range(4), ("Paris", "Lima"))
    stages, prompts = scripted_stages(texts)
    stages = replace(stages, task=TextTask(), rollout=rollout(texts), credit=NoCredit())
    return Showing(stages, Console(file=io.StringIO()), rows=63, temperature=1.0), stages.rollout, prompts[0]


def test_another_temperature_is_set_once_and_holds():
    show, rollout, prompt = showing(Decoding)
    for temperature in (1.0, 0.5, 0.5, 1.0):
        show(composed_sample("k=2", f"temperature={temperature}"), prompt)
    assert rollout.temperatures == [0.5, 1.0]


def test_a_rollout_that_cannot_change_its_temperature_refuses_each_time():
    show, _, prompt = showing()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"temperature=0.5: ScriptedRollout stays at 1.0"):
            show(composed_sample("k=2", "temperature=0.5"), prompt)
    show(composed_sample("k=2", "temperature=1.0"), prompt)


def test_a_prompt_with_a_token_that_the_model_does_not_know_is_refused():
    show, _, prompt = showing()
    with pytest.raises(ConfigError, match="a token for which the model has no row"):
        show(composed_sample("k=2"), replace(prompt, tokens=(3, 63)))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dqo.cli", "sample", *QUICK, *arguments]


@pytest.mark.slow
def test_each_line_of_a_pipe_gets_a_json_object(tmp_path):
    done = subprocess.run(
        command("json=true", "rollout=hf", "max_completion_length=6"), input="dog ball park :\n\ncat tree hill :\n",
        capture_output=True, text=True, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["prompt"] for record in records] == ["dog ball park :", "cat tree hill :"]
    assert records[0]["completions"] != records[1]["completions"]
    assert [*tmp_path.iterdir()] == []


class Terminal:
    """A process at a pseudo-terminal."""

    def __init__(self, arguments: list[str], **environment: str):
        self._screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            arguments, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            env={**os.environ, **environment, "TERM": "xterm"},
        )  # fmt: skip
        os.close(theirs)
        self.seen, self._place = "", 0

    def until(self, text: str, seconds: float = 120) -> None:
        """Read until the text appears, after what was waited for before."""
        deadline = time.monotonic() + seconds
        while text not in self.seen[self._place :]:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self._screen, 4096).decode(errors="replace")
        self._place = self.seen.index(text, self._place) + len(text)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())


@pytest.mark.slow
def test_a_terminal_is_asked_and_ctrl_c_ends_cleanly(tmp_path):
    terminal = Terminal(command(), XDG_STATE_HOME=str(tmp_path))
    terminal.until("type a prompt, or :help")
    terminal.until("> ")
    terminal.type("dog ball park :\n")
    terminal.until("cosines")
    terminal.until("> ")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.type("\n")  # Python sees a signal that comes before readline waits for a key at the next key
    assert terminal.process.wait(60) == 0
    assert "Traceback" not in terminal.seen
    assert (tmp_path / "dqo" / "sample_history").read_text().endswith("dog ball park :\n")
