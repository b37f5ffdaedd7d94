"""scripts/gpu_check.py on a CPU: a broken part is reported, nothing outlives its time, and the cheap parts run."""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# a process with a child of its own that shares its output: reading it to the end waits for both
NEVER_ENDS = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print("begun", flush=True)
signal.pause()
"""


@pytest.fixture
def module(monkeypatch):
    """One of the script's modules, by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


def make_check(runner, tmp_path: Path, *, minutes: float = 1.0):
    options = argparse.Namespace(device="cpu", minutes=minutes, json=str(tmp_path / "found.json"))
    return runner.Check(options, tmp_path)


def test_a_part_that_fails_stops_no_other_and_decides_the_exit_code(module, tmp_path, capsys):
    runner = module("gpu_check_runner")
    check = make_check(runner, tmp_path)
    broken = [sys.executable, "-c", "print('begun'); raise SystemExit('the card is broken')"]

    def lacks(check):
        raise runner.NotRun("the package trl is missing")

    check.run("broken", 60, lambda check: (check.process(broken)[-1], {}))
    check.run("sound", 60, lambda check: ("fine", {"seconds": 1.5}))
    check.run("absent", 60, lacks)
    check.run("strange", 60, lambda check: ("", {"difference": {}["difference"]}))
    assert runner.summary(check) == 1
    printed = capsys.readouterr().out
    assert "WRONG  exit code 1: the card is broken" in printed and "WRONG: broken, strange; 1 parts" in printed
    found = json.loads((tmp_path / "found.json").read_text())["parts"]
    assert [part["verdict"] for part in found] == ["WRONG", "ok", "not run", "WRONG"]
    assert found[0]["output"] == ["begun", "the card is broken"] and found[1]["numbers"] == {"seconds": 1.5}


def test_what_outlives_its_time_is_killed_with_what_it_has_started(module, tmp_path):
    runner = module("gpu_check_runner")
    check = make_check(runner, tmp_path)
    check.run("endless", 1 / runner.SLOWER, lambda check: (check.process([sys.executable, "-c", NEVER_ENDS])[-1], {}))
    assert check.reports[0].verdict == "WRONG" and "not done when its time was over" in check.reports[0].text


def test_after_the_deadline_parts_are_not_run(module, tmp_path):
    runner = module("gpu_check_runner")
    check = make_check(runner, tmp_path, minutes=0)
    check.run("late", 60, lambda check: pytest.fail("it was run"))
    assert check.reports[0].verdict == "not run" and runner.summary(check) == 0


def test_prompts_are_as_long_as_gsm8ks(module, tmp_path):
    texts = module("gpu_check_parts").write_prompts(tmp_path / "prompts.jsonl", 300)
    lengths = [len(text.split()) for text in texts]
    assert 40 < statistics.mean(lengths) < 50 and 14 < statistics.stdev(lengths) < 22
    assert json.loads((tmp_path / "prompts.jsonl").read_text().splitlines()[7])["prompt"] == texts[7]


@pytest.mark.slow
def test_the_cheap_parts_run_on_a_cpu(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--device", "cpu", "--size", "tiny", "--json", str(found)]
    subprocess.run([*command, "--parts", "machine", "credit"], check=True)
    machine, credit = json.loads(found.read_text())["parts"]
    assert machine["verdict"] == credit["verdict"] == "ok" and machine["numbers"]["matmul_flops"] > 0
    assert all(row["difference"] < 1e-4 for row in credit["numbers"]["rows"])
