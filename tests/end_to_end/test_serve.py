"""A learner that asks dqo-serve for rewards and embeddings learns what it learns with them in process."""

import contextlib
import json
from pathlib import Path

import pytest

from dqo.run.serve import application
from tests.helpers.commands import run_in_process
from tests.helpers.composing import SMALL, composed_serve
from tests.helpers.serving import served

TIMES = ("seconds", "step_time", "tokens_per", "memory", "rewards/", "embed/")  # and what a service's clients count


@pytest.mark.slow
def test_a_learner_of_a_service_learns_the_same(tmp_path, monkeypatch):
    def steps(name: str, *overrides: str) -> list[dict[str, float]]:
        arguments = [*SMALL, "steps=2", "credit.gate=none", *overrides, f"run_dir={tmp_path / name}"]
        assert run_in_process("train", arguments, monkeypatch) == 0
        return _steps(tmp_path / name)

    with contextlib.ExitStack() as stack:
        url = stack.enter_context(served(application(composed_serve(), None, stack)))
        remote = ("reward=remote", f"reward.url={url}", "embed=remote", f"embed.base_url={url}/v1", "embed.model=fake")
        there = steps("there", *remote)
    here = steps("here")
    assert len(here) >= 2 and [line.keys() for line in there] == [line.keys() for line in here]
    for mine, other in zip(here, there, strict=True):
        for name, value in mine.items():
            expected = pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
            assert other[name] == expected, name


def _steps(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMES)} for line in lines]
