import io
import logging
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from dqo.observe.frame import Scene, frame, sparkline
from dqo.observe.view import View
from tests.observe.records import HOSTILE, make_evaluation, make_step


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system="truecolor", _environ={}
    )


def piped() -> Console:
    return Console(file=io.StringIO(), width=80, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def view(console: Console, **changes) -> View:
    settings = {"steps": 4, "alpha": 1.0, "log_every": 1, "live": True, "title": "cities", "place": "runs/x"} | changes
    return View(**settings, console=console)


def test_plain_lines_without_a_terminal():
    console = piped()
    with view(console) as watch:
        watch.say("evaluating")
        watch.evaluated(0, make_evaluation(0.25))
        watch(make_step(1))
    lines = written(console).splitlines()
    assert lines[0] == "evaluating"
    assert lines[1].startswith("eval step 0 n 4 reward 0.250 pass@1 0.250 pass@10 0.250 distinct_correct 0.250")
    assert lines[2] == (
        "step 1/4 reward 0.833 correct 50.0% distinct 1.0 credit 0.467 credit_spread 0.000 credit_to_wrong 42.9% "
        "entropy 1.50 kl – rollout 5 tokens/s learner 10 tokens/s 5.0 s/step 0:15 left"
    )
    assert "\x1b" not in written(console)


def test_log_every_thins_the_lines_but_not_the_last():
    console = piped()
    with view(console, log_every=3) as watch:
        for number in (1, 2, 3, 4):
            watch(make_step(number))
    assert [line.split()[1] for line in written(console).splitlines()] == ["3/4", "4/4"]


def drawn(scene_width: int, **console: int) -> list[str]:
    watch = view(terminal(**console))
    watch.evaluated(0, make_evaluation(0.25))
    for number in (1, 2, 3):
        watch(make_step(number, texts=("Paris", "Paris", "Lima", HOSTILE)))
    watch.evaluated(3, make_evaluation(0.75))
    plain = Console(file=io.StringIO(), width=scene_width, _environ={})
    plain.print(frame(watch._scene, width=scene_width, now=watch._scene.began + 75))
    return written(plain).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_frame_fits_the_terminal(width):
    lines = drawn(width)
    assert len(lines) <= 22
    assert max(map(len, lines)) <= width


def test_a_frame_shows_what_matters():
    text = "\n".join(drawn(100))
    for words in ("step 3/4", "1:15", "reward", "0.833", "42.9%", "entropy", "kl", "before", "step 3", "0.250", "0.750",
                  "rollout 5 tokens/s", "prompt", "City 0?", "Paris"):  # fmt: skip
        assert words in text, words


def test_completions_cannot_reach_the_terminal():
    console = terminal(width=120)
    with view(console) as watch:
        watch(make_step(1, texts=(HOSTILE, "Lima", "Oslo", "Oslo")))
    text = written(console)
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert r"Paris\x1b[2J↵[bold red]x[/] \u202e" in text


def test_log_records_go_above_the_frame_and_handlers_come_back(monkeypatch):
    console = terminal()
    torn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", torn)
    ours = logging.getLogger("dqo")
    handler = logging.StreamHandler()  # takes sys.stderr
    monkeypatch.setattr(ours, "handlers", [handler])
    with view(console):
        logging.getLogger("dqo.somewhere").warning("tiny spread [red]")
    assert torn.getvalue() == ""
    assert "tiny spread [red]" in written(console)
    assert ours.handlers == [handler]


def test_a_failure_leaves_the_terminal_in_order():
    console = terminal()
    with pytest.raises(RuntimeError), view(console) as watch:
        watch(make_step(1))
        raise RuntimeError
    assert "stopped" in written(console)
    assert written(console).rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_sparkline():
    nan = float("nan")
    assert sparkline([0.0, 7.0, 3.0], 10) == "▁█▄"
    assert sparkline([1.0, 1.0], 10) == "▄▄"
    assert sparkline([nan, 1.0, 2.0], 10) == " ▁█"
    assert sparkline([nan], 10) == ""
    assert sparkline([9.0, 0.0, 0.0, 7.0, 7.0], 3) == "█▁▆"  # 9 | 0 0 | 7 7: from the newest


def test_a_scene_before_the_first_step():
    scene = Scene(title="t", place="p", steps=4, began=0.0, metrics={}, before={}, latest={})
    console = piped()
    console.print(frame(replace(scene, doing="loading"), width=80, now=3.0))
    assert "step 0/4" in written(console)
    assert "loading" in written(console)
