import io
import logging
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from dqo.observe.frame import Scene, frame, sparkline
from dqo.observe.view import View
from tests.helpers.steps import HOSTILE, make_evaluation, make_step, send


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
    settings = {"steps": 4, "log_every": 1, "live": True, "title": "cities", "place": "runs/x"} | changes
    return View(**settings, console=console)


def test_plain_lines_without_a_terminal():
    console = piped()
    with view(console) as watch:
        watch.say("evaluating")
        watch.evaluated(0, make_evaluation(0.25))
        send(watch, make_step(1))
    lines = written(console).splitlines()
    assert lines[0] == "evaluating"
    assert lines[1].startswith("eval step 0 n 4 reward 0.250 pass@1 0.250 pass@10 0.250 distinct_correct 0.250")
    assert lines[2] == (
        "step 1/4 reward 0.833 correct 50.0% distinct 1.0 credit 0.467 credit_spread 0.000 spread_ratio – "
        "credit_to_wrong 42.9% entropy 1.50 kl – rollout 5 tokens/s learner 10 tokens/s 5.0 s/step 0:15 left"
    )
    assert "\x1b" not in written(console)


def test_every_nth_step_and_the_last_are_printed():
    console = piped()
    with view(console, log_every=3) as watch:
        for number in (1, 2, 3, 4):
            send(watch, make_step(number))
    assert [line.split()[1] for line in written(console).splitlines()] == ["3/4", "4/4"]


def frame_lines(scene_width: int, **console: int) -> list[str]:
    watch = view(terminal(**console))
    watch.evaluated(0, make_evaluation(0.25))
    for number in (1, 2, 3):
        send(watch, make_step(number))
    watch.evaluated(3, make_evaluation(0.75))
    plain = Console(file=io.StringIO(), width=scene_width, _environ={})
    plain.print(frame(watch._scene, width=scene_width, now=watch._scene.began + 75))
    return written(plain).splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_frame_fits_the_terminal(width):
    lines = frame_lines(width)
    assert len(lines) <= 22
    assert max(map(len, lines)) <= width


def test_a_frame_shows_progress_metrics_and_samples():
    text = "\n".join(frame_lines(100))
    for words in ("step 3/4", "1:15", "reward", "0.833", "42.9%", "entropy", "kl", "before", "step 3", "0.250", "0.750",
                  "rollout 5 tokens/s", "prompt", "City 0?", "Paris"):  # fmt: skip
        assert words in text, words


def test_control_characters_of_completions_do_not_reach_the_terminal():
    console = terminal(width=120)
    with view(console) as watch:
        send(watch, make_step(1, texts=(HOSTILE, "Lima", "Oslo", "Oslo")))
    text = written(console)
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert r"Paris\x1b[2J↵[bold red]x[/] \u202e" in text


def test_log_records_are_printed_above_the_frame_and_handlers_are_restored(monkeypatch):
    console = terminal()
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    ours = logging.getLogger("dqo")
    handler = logging.StreamHandler()  # writes to sys.stderr
    monkeypatch.setattr(ours, "handlers", [handler])
    with view(console):
        logging.getLogger("dqo.somewhere").warning("tiny spread [red]")
    assert stderr.getvalue() == ""
    assert "tiny spread [red]" in written(console)
    assert ours.handlers == [handler]


def test_an_error_ends_the_live_view_and_shows_the_cursor():
    console = terminal()
    with pytest.raises(RuntimeError), view(console) as watch:
        send(watch, make_step(1))
        raise RuntimeError
    assert "stopped" in written(console)
    assert written(console).rstrip().endswith("\x1b[?25h")  # shows the cursor


def test_sparkline_scales_averages_and_leaves_gaps():
    nan = float("nan")
    assert sparkline([0.0, 7.0, 3.0], 10) == "▁█▄"
    assert sparkline([1.0, 1.0], 10) == "▄▄"
    assert sparkline([nan, 1.0, 2.0], 10) == " ▁█"
    assert sparkline([nan], 10) == ""
    assert sparkline([9.0, 0.0, 0.0, 7.0, 7.0], 3) == "█▁▆"  # groups 9 | 0 0 | 7 7


def test_a_frame_before_the_first_step():
    scene = Scene(title="t", place="p", steps=4, began=0.0, metrics={}, before={}, latest={})
    console = piped()
    console.print(frame(replace(scene, doing="loading"), width=80, now=3.0))
    assert "step 0/4" in written(console)
    assert "loading" in written(console)
