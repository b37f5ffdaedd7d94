"""The short form of the fault campaign: ``scripts/faults.py``."""

import subprocess
import sys

import pytest

from tests.end_to_end.conftest import ROOT

pytestmark = pytest.mark.slow


def test_killed_runs_lose_and_repeat_nothing(environment):
    done = subprocess.run(
        [sys.executable, "scripts/faults.py", "--kills", "3", "--steps", "9", "--seed", "1"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("steps differing 0", "prompts lost 0", "prompts replayed 0", "files differing 0", "orphans 0"):
        assert line in done.stdout.splitlines()
