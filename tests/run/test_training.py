"""A run whose reward is a service that fails for good: it ends with a checkpoint, and goes on as if it had not."""

import json
from pathlib import Path

import pytest

from tests.helpers.commands import run_in_process
from tests.helpers.composing import SMALL
from tests.helpers.http_server import HttpServer, http_server

pytestmark = pytest.mark.slow  # five runs of some seconds


def scored(number, request):
    return 200, {"rewards": [float(len(query) % 5) for query in request["query"]]}


def failing_from(first: int):
    def answer(number, request):
        return (500, {"error": "out of memory"}) if number >= first else scored(number, request)

    return answer


def arguments(server: HttpServer) -> list[str]:
    return [
        *SMALL, "reward=remote", "reward.form=openrlhf", f"reward.url={server.url}", "reward.correct_above=2",
        "reward.batch=4", "reward.retries=0", "steps=4", "eval.every=2", "eval.metrics=[reward]", "log.live=false",
        "log.tensorboard=false", "checkpoint.every=0", "checkpoint.final=false",
    ]  # fmt: skip


def numbers(run: Path) -> list[dict]:
    """The lines of metrics.jsonl without times."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if "time" not in key and "second" not in key} for line in lines]


def test_a_run_whose_service_fails_saves_the_last_step_and_goes_on_as_if_it_had_not(tmp_path, monkeypatch, capsys):
    """Before the first step 2 groups are evaluated, then 2 are judged in each step, and 2 evaluated after step 2:
    request 6 fails in that evaluation, request 9 in step 3."""
    monkeypatch.chdir(tmp_path)
    with http_server(scored) as server:
        assert run_in_process("train", [*arguments(server), "run_dir=whole"], monkeypatch) == 0
    for first, when in ((6, "step 2"), (9, "step 3")):
        capsys.readouterr()
        with http_server(failing_from(first)) as server:
            assert run_in_process("train", [*arguments(server), f"run_dir=from{first}"], monkeypatch) == 1
        said = capsys.readouterr().err
        assert f"[reward, {when}" in said and "reward.url=" in said and "out of memory" in said
        assert f"the checkpoint after step 2 is kept; go on with dqo-train resume=from{first}" in said
        with http_server(scored) as other:  # at another address
            assert run_in_process("train", [f"resume=from{first}", f"reward.url={other.url}"], monkeypatch) == 0
        whole, parts = tmp_path / "whole", tmp_path / f"from{first}"
        assert numbers(parts) == numbers(whole)
        for evaluation in (whole / "evaluations").iterdir():
            assert (parts / "evaluations" / evaluation.name).read_bytes() == evaluation.read_bytes()
