import logging
import re

import pytest

from dqo import progress
from dqo.progress import LoggedBar, duration, elapsed


@pytest.fixture(autouse=True)
def at_once(monkeypatch, caplog):
    """A line whenever one may be due, as if each took ``INTERVAL``."""
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    caplog.set_level(logging.INFO, "dqo")


def test_long_work_says_how_far_it_is(caplog, capfd, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # as a worker process has it
    with LoggedBar(total=800, desc="warm start", unit="steps", mininterval=0) as bar:
        for _ in range(3):
            bar.set_postfix_str("loss 1.234", refresh=False)
            bar.update()
    lines = [record.message for record in caplog.records]
    assert len(lines) == 3
    assert re.fullmatch(r"warm start: 3 of 800 steps, loss 1.234, about .* s left", lines[-1])
    assert capfd.readouterr() == ("", "")  # no bar


def test_a_download_of_the_hub_says_how_far_it_is(caplog):
    """huggingface_hub starts its bar without a total, and adds each file's to it."""
    bar = LoggedBar(total=0, initial=0, desc="Reconstructing", unit="B", unit_scale=True, bar_format="{l_bar}")
    bar.total += 3e9
    bar.refresh()
    assert not caplog.records  # nothing has come yet
    bar.n += 3e8
    bar.refresh()
    assert caplog.records[-1].message.startswith("Reconstructing: 300MB of 3.00GB, about ")
    bar.close()


def test_quick_work_says_nothing(caplog, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 60.0)
    with elapsed("reading the weights"), LoggedBar(total=2, desc="warm start", mininterval=0) as bar:
        bar.update(2)
    assert not caplog.records


def test_a_call_that_does_not_say_how_far_it_is_is_timed(caplog, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    with elapsed("reading the weights"):
        while not caplog.records:
            pass
    assert caplog.records[0].message == "reading the weights: 0 s so far"


def test_durations_are_read_easily():
    assert [duration(seconds) for seconds in (0.4, 59.0, 95.0, 3600.0)] == ["0 s", "59 s", "1 min 35 s", "60 min 0 s"]
