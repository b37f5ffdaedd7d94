"""Several workers: one run like any other, and one that dies ends it."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.end_to_end.conftest import ROOT, SMALL, lines

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.slow
TWO = ("learner=deepspeed_zero", "embed=fake", "optim=adamw", "log.live=false", "nproc=2")


def workers(run) -> list[int]:
    """Process ids by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline", "environ"]):
        command, environment = process.info["cmdline"] or [], process.info["environ"] or {}
        if "dqo.cli.worker" in command and str(run) in command:
            found[environment["RANK"]] = process.pid
    return [found[rank] for rank in sorted(found)]


def until(condition, process, *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.05)


def test_two_workers_do_what_one_does_and_one_goes_on_with_it(dqo, dqo_here, tmp_path):
    """The first step: its prompts, completions, rewards and gradient do not depend on who has which group."""
    dqo(
        *SMALL,
        *TWO,
        "learner.dtype=float32",
        "rollout.dtype=float32",
        "run_dir=two",
        "checkpoint.every=2",
    )
    dqo_here(*SMALL, "optim=adamw", "embed=fake", "learner.dtype=float32", "rollout.dtype=float32", "run_dir=one")
    two, one = ([row for row in lines(tmp_path / name) if "loss" in row] for name in ("two", "one"))
    for row, other in zip(two, one, strict=True):
        assert row.keys() == other.keys()
        for key in ("reward", "credit", "num_tokens", "trained_tokens", "loss", "grad_norm", "entropy"):
            assert row[key] == pytest.approx(other[key], rel=1e-3, abs=1e-6), key
    assert (tmp_path / "two" / "logs" / "rank_1.log").exists()
    dqo("resume=two", "steps=3", "nproc=1")
    assert [row["step"] for row in lines(tmp_path / "two") if "loss" in row] == [1, 2, 3]


def test_vllm_and_zero_3_on_two_workers_that_share_an_engine_or_do_not(dqo, tmp_path):
    pytest.importorskip("vllm")
    runs = []
    for sharing in (1, 2):
        run = f"run_{sharing}"
        engine = ("rollout=vllm", "rollout.sync_check_every=1", f"rollout.tensor_parallel_size={sharing}")
        dqo(*SMALL, *TWO, *engine, "learner.stage=3", f"run_dir={run}")
        runs.append([row for row in lines(tmp_path / run) if "loss" in row])
        assert len(runs[-1]) == 2
        assert all(0 < row["sampling/sampling_logp_difference/mean"] < 0.05 for row in runs[-1])
    # the same completions and the same update; the loss itself is near 0, where rounding of the ratios shows
    for key in ("reward", "credit", "num_tokens", "grad_norm"):
        assert runs[1][0][key] == pytest.approx(runs[0][0][key], rel=1e-2, abs=1e-4), key


def test_a_dead_worker_ends_the_run_with_its_error_and_the_run_goes_on(start, dqo, tmp_path):
    run = tmp_path / "run"
    process = start(*SMALL, *TWO, "steps=400", "checkpoint.every=1", f"run_dir={run}")
    until(lambda: (run / "checkpoints" / "step_00002").exists(), process)
    os.kill(workers(run)[1], signal.SIGKILL)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGKILL
    assert f"worker 1 was ended by SIGKILL; was it the memory?; go on with dqo-train resume={run}" in text
    assert not workers(run)
    done = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step_*"))
    dqo(f"resume={run}", f"steps={done + 1}")
    assert lines(run)[-2]["step"] == done + 1


def test_a_worker_that_fails_is_quoted(start, tmp_path):
    """A reward of the user's that fails on the second worker alone."""
    (tmp_path / "my_module.py").write_text(
        "import os\n"
        "def score(completions, **columns):\n"
        "    if os.environ.get('RANK') == '1':\n"
        "        raise ValueError('no reward on this worker')\n"
        "    return [0.0 for _ in completions]\n"
    )
    process = start(*SMALL, *TWO, "reward=python", "reward.function=my_module.score", "run_dir=run")
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 1, text
    assert "worker 1 failed: " in text and "no reward on this worker" in text and "logs/rank_1.log" in text


def test_a_signal_stops_all_after_the_step(start, tmp_path):
    run = tmp_path / "run"
    process = start(*SMALL, *TWO, "steps=400", f"run_dir={run}")
    until(lambda: (run / "metrics.jsonl").exists() and len(lines(run)) > 3, process)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 130, text
    assert "go on with dqo-train resume=" in text
    assert (run / "checkpoints").exists() and not workers(run)


def test_torchrun_starts_it_too(environment, tmp_path):
    run = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "dqo.cli", "train", *SMALL, *TWO[:-1], "run_dir=run",
        ],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert len([row for row in lines(tmp_path / "run") if "loss" in row]) == 2
    assert (tmp_path / "run" / "summary.json").exists()


def test_what_several_workers_cannot_do_is_said_before_anything_starts(dqo_here, tmp_path):
    text = dqo_here(*SMALL, "nproc=2", "run_dir=run", code=2)
    assert "nproc=2: TorchSingle is one process; type learner=deepspeed_zero, or nproc=1" in text
    text = dqo_here(*SMALL, *TWO, "prompts_per_step=3", "run_dir=run", code=2)
    assert "prompts_per_step=3: 2 workers share them equally; type prompts_per_step=4" in text
    assert not (tmp_path / "run").exists()
