"""scripts/reproduce.py without its runs: the matrix is valid, the scheduler, the choice of rates, the statistics."""

import importlib
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from dqo.config.validate import validate
from tests.helpers.composing import composed

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def module(monkeypatch):
    """One of the script's modules, by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("countdown", slice(None)),
        ("cities", slice(None)),
        ("alpha_k", slice(5)),
        ("algorithms_countdown", slice(None)),
        ("algorithms_concepts", slice(6, None)),
    ],
)
def test_every_arm_is_a_valid_configuration(module, table, part, tmp_path):
    matrix, jobs = module("reproduce_matrix"), module("reproduce_jobs")
    table = matrix.TABLES[table]
    for job in jobs.main_jobs(table, table.arms[part], [0], tmp_path, {}):
        validate(composed(*job.arguments[1:-2], base=("device=cpu", "run_dir=run")))  # its own run_dir has "="


def test_arms_and_folders_are_told_apart(module, tmp_path):
    matrix, jobs = module("reproduce_matrix"), module("reproduce_jobs")
    for table in matrix.TABLES.values():
        made = [
            *jobs.selection_jobs(table, table.arms, [100], tmp_path),
            *jobs.main_jobs(table, table.arms, [0], tmp_path, {}),
        ]
        assert len({job.folder for job in made}) == len(made)
        assert {arm.against for arm in table.arms} <= {"", *(arm.name for arm in table.arms)}
    claimed = {name for claim in module("reproduce_claims").CLAIMS for name in (claim.arm, claim.against)}
    assert claimed <= {arm.name for arm in matrix.COUNTDOWN.arms}


def test_preparations_come_in_order_and_the_runs_use_them(module, tmp_path):
    matrix, jobs = module("reproduce_matrix"), module("reproduce_jobs")
    table = matrix.TABLES["scitldr"]
    made = jobs.preparations(table, [0], tmp_path)
    assert [job.name for job in made] == ["scitldr_pairs.jsonl", "scitldr_sft", "scitldr_rm"]
    assert not any(job.is_done for job in made)
    made[0].folder.parent.mkdir()
    made[0].folder.touch()
    assert made[0].is_done and f"rm.path={made[0].folder}" in made[2].arguments
    (run, *_) = jobs.main_jobs(table, table.arms, [0], tmp_path, {})
    assert {f"reward.path={made[2].folder}/model", f"model.path={made[1].folder}/policy"} < {*run.arguments}
    for task in ("countdown", "concepts"):
        table = matrix.TABLES[f"algorithms_{task}"]
        assert [job.arguments[-3] for job in jobs.preparations(table, [0, 2], tmp_path)] == ["seed=0", "seed=2"]


def write_run(folder: Path, lines, after, before=None) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"after": after, "before": before or {}}))


def named(matrix, *names):
    """The countdown table's arms of these names, in its order."""
    return [arm for arm in matrix.COUNTDOWN.arms if arm.name in names]


def test_an_arm_with_a_rate_of_its_own_is_not_selected(module, tmp_path):
    matrix, jobs = module("reproduce_matrix"), module("reproduce_jobs")
    (arm,) = named(matrix, matrix.SAME_RATE.name)
    assert not jobs.selection_jobs(matrix.COUNTDOWN, [arm], [100], tmp_path)
    (job,) = jobs.main_jobs(matrix.COUNTDOWN, [arm], [0], tmp_path, {arm.name: 2.0})
    assert job.factor == 0.5 and "learning_rate=0.00025" in job.arguments


def test_the_rate_with_the_best_pass_at_1_is_chosen_and_equal_ones_are_decided_by_size(module, tmp_path):
    matrix, jobs, selection = module("reproduce_matrix"), module("reproduce_jobs"), module("reproduce_selection")
    table, arms = matrix.COUNTDOWN, named(matrix, "none", "constant", "dpp alpha=0.5")
    scores = {("none", 1.0): 0.5, ("none", 2.0): 0.6, ("constant", 2.0): 0.3, ("constant", 0.5): 0.3}
    for job in jobs.selection_jobs(table, arms[:2], [100, 101], tmp_path):
        write_run(job.folder, [], {"pass@1": scores.get((job.name, job.factor), 0.1) + 0.01 * (job.seed - 100)})
    chosen = selection.choose(tmp_path, table, arms, [100, 101], write=True)
    assert chosen == {"none": 2.0, "constant": 0.5}  # the third has no runs
    assert json.loads((tmp_path / "chosen.json").read_text())["countdown"]["none"]["pass@1"]["2"] == [0.6, 0.61]
    next(tmp_path.glob("select/countdown/none_x1_*/summary.json")).unlink()
    assert selection.choose(tmp_path, table, arms, [100, 101], write=False) == chosen  # as chosen.json says


def test_intervals_are_students_and_wider_for_more_comparisons(module):
    results = module("reproduce_results")
    values, others = [0.5, 0.7, 0.6, 0.9], [0.4, 0.5, 0.65, 0.5]
    found, expected = results.difference(values, others), ttest_rel(values, others).confidence_interval(0.95)
    assert found.low == pytest.approx(expected.low) and found.high == pytest.approx(expected.high) and found.seeds == 4
    of_ten = results.difference(values, others, comparisons=10)
    assert of_ten.high == pytest.approx(ttest_rel(values, others).confidence_interval(0.995).high)
    alone = results.difference([0.5, math.nan], [0.4, 0.1])
    assert alone.mean == pytest.approx(0.1) and math.isnan(alone.low) and alone.seeds == 1 and not alone.is_clear
    assert math.isnan(results.difference([], []).mean)


def test_equal_time_is_that_of_the_faster_run(module):
    results = module("reproduce_results")

    def run(seconds, scores):
        steps = [{"step": step, "step_time": seconds} for step in (1, 2)]
        evaluations = [{"step": step, "eval/pass@1": score} for step, score in enumerate(scores)]
        lines = [evaluations[0], *(line for pair in zip(steps, evaluations[1:], strict=True) for line in pair)]
        return results.Run({"pass@1": scores[-1]}, lines)

    slow, fast = run(2.0, [0.1, 0.5, 0.9]), run(1.5, [0.1, 0.2, 0.3])
    assert slow.seconds == 4 and slow.steps == 2
    assert slow.value_at("pass@1", 3.0) == pytest.approx(0.7)
    found = results.paired_in_time({0: slow, 7: slow}, {0: fast}, "pass@1")
    assert found.mean == pytest.approx(0.4) and found.seeds == 1
    assert results.paired({0: slow}, {0: fast}, "pass@1").mean == pytest.approx(0.6)
    assert math.isnan(slow.value("reward")) and math.isnan(slow.value_at("reward", 3.0))


def test_a_claim_is_held_or_not_by_its_whole_interval(module):
    claims, results = module("reproduce_claims"), module("reproduce_results")
    costs_little = claims.Claim("", "", "a", "b", "pass@1", margin=-0.02)
    falls = claims.Claim("", "", "a", "b", "pass@1", sign=-1)

    def verdicts(low, high):
        measured = results.Difference((low + high) / 2, low, high, 5)
        return [claims.verdict(claim, measured).partition(":")[0] for claim in (costs_little, falls)]

    assert verdicts(-0.01, 0.03) == ["held", "open"]
    assert verdicts(-0.05, -0.03) == ["not held", "held"]
    assert verdicts(0.01, 0.03) == ["held", "not held"]
    assert verdicts(math.nan, math.nan) == ["not tested here"] * 2


def test_the_table_of_stored_runs(module, tmp_path, capsys):
    matrix, jobs, tables = module("reproduce_matrix"), module("reproduce_jobs"), module("reproduce_tables")
    table, arms = matrix.COUNTDOWN, named(matrix, "none", "constant", "dpp alpha=0.5")
    for job in jobs.main_jobs(table, arms[:2], [0, 1, 2], tmp_path, {"constant": 2.0}):
        more = (job.name == "constant") * (0.5 + 0.01 * job.seed)
        after = {"pass@1": 0.6, "pass@10": 0.9, "distinct_correct": 2.0 + more, "cosine_distance/correct": None}
        write_run(job.folder, [{"step": 1, "step_time": 2.0, "credit_spread": 0.25}], after)
    tables.print_table(table, arms, [0, 1, 2], tmp_path, {"constant": 2.0})
    printed = capsys.readouterr().out
    assert "| none | 0.6 | 0.9 | 2 | – | – | – | 2.00 | 0.25 | ×1, not chosen | 3 |" in printed
    row = next(line for line in printed.splitlines() if line.startswith("| constant"))
    assert "| 2.51, **+0.510 [+0.4" in row and "| ×2 | 3 |" in row
    assert "Without a finished run: dpp alpha=0.5." in printed and "against `constant`" in printed


def test_the_table_of_gains(module, tmp_path, capsys):
    matrix, jobs, tables = module("reproduce_matrix"), module("reproduce_jobs"), module("reproduce_tables")
    table = matrix.TABLES["algorithms_countdown"]
    arms = [arm for arm in table.arms if arm.name in ("ppo", "ppo, dpp", "rloo")]
    for job in jobs.main_jobs(table, arms[1:], [0, 1], tmp_path, {}):
        dpp = job.name == "ppo, dpp"
        after = {"reward": 0.7 + 0.02 * job.seed, "distinct_correct": 2.0 + dpp, "cosine_distance/correct": None}
        write_run(job.folder, [], after, {"reward": 0.5, "distinct_correct": 2.5})
        if dpp:
            job.folder.with_name(f"{job.folder.name}{jobs.CPU}").write_text("100.5\n20\n")
    tables.print_table(table, arms, [0, 1, 2], tmp_path, {})
    printed = capsys.readouterr().out
    assert "| ppo | 0.5 → 0.71 | **+0.210 [+0.083 +0.337]** | 2.5 → 2 | – → – | – | 2 |" in printed
    assert "| ppo, dpp | 0.5 → 0.71 | **+0.210 [+0.083 +0.337]** | 2.5 → 3 | – → – | 120 | 2 |" in printed
    assert "| ppo, dpp − ppo | +0.000 [+0.000 +0.000] | **+1.000 [+1.000 +1.000]** | – |" in printed
    assert "Without a finished run: rloo." in printed


def test_the_measures_of_a_reward_model_are_printed(module, tmp_path):
    bins = [{"confidence": 0.55, "right": 0.5, "pairs": 10}, {"confidence": 0.975, "right": 0.9, "pairs": 30}]
    (tmp_path / "rm.json").write_text(json.dumps({"base": "MiniLM", "pairs": 40, "accuracy": 0.8, "bins": bins}))
    assert module("reproduce_tables").measures(tmp_path / "rm.json").splitlines() == [
        "| pairs | accuracy |", "|---|---|", "| 40 | 0.8 |", "",
        "| confidence | 0.55 | 0.975 |", "|---|---|---|", "| right | 0.5 | 0.9 |", "| pairs | 10 | 30 |",
    ]  # fmt: skip


def test_the_grid_has_a_cell_for_each_alpha_and_k(module, tmp_path):
    matrix, jobs, tables = module("reproduce_matrix"), module("reproduce_jobs"), module("reproduce_tables")
    table, results = matrix.TABLES["alpha_k"], module("reproduce_results")
    for job in jobs.main_jobs(table, table.arms, [0, 1], tmp_path, {}):
        if job.name == "alpha=0.5 k=6":
            write_run(job.folder, [], {"pass@1": 0.5 + 0.2 * job.seed})
    found = {arm.name: results.read_runs(table, arm, [0, 1], tmp_path, {}) for arm in table.arms}
    lines = tables.grid(table.arms, found, "pass@1", "pass@1").splitlines()
    assert lines[0] == "| pass@1 | k = 2 | k = 4 | k = 6 | k = 8 |"
    assert lines[3] == "| alpha = 0.5 | – | – | 0.6 | – |" and len(lines) == 2 + len(matrix.ALPHAS)


def test_decodings_of_kept_policies_are_compared(module, tmp_path):
    matrix, jobs, tables = module("reproduce_matrix"), module("reproduce_jobs"), module("reproduce_tables")
    table = matrix.COUNTDOWN
    arms = named(matrix, "constant", "dpp gated", "entropy, correct")
    assert not jobs.decoding_jobs(table, arms, [0], tmp_path, {})  # no policy yet
    for arm in arms:
        (jobs.main_folder(table, arm, 0, tmp_path, 1.0) / "policy").mkdir(parents=True)
    made = jobs.decoding_jobs(table, arms, [0], tmp_path, {})
    assert [job.name for job in made] == ["dpp gated, decodings", "entropy, correct, decodings"]
    assert made[0].arguments[0] == "eval"
    (made[1].folder / "completions").mkdir(parents=True)
    assert jobs.decoding_jobs(table, arms, [0], tmp_path, {})[1].arguments == ("eval", f"resume={made[1].folder}")
    assert not tables.decodings(table, arms, [0], tmp_path, {})
    for job, distinct in zip(made, (2.0, 3.0), strict=True):
        decodings = [{"temperature": t, "top_p": 1.0, "min_p": 0.0} for t in (1.3, 0.7)]
        metrics = {"pass@1": {"mean": 0.5}, "distinct_correct": {"mean": distinct}}
        job.folder.mkdir(parents=True, exist_ok=True)
        cells = [{"decoding": decoding, "metrics": metrics} for decoding in decodings]
        (job.folder / job.done).write_text(json.dumps({"cells": cells}))
    lines = tables.decodings(table, arms, [0], tmp_path, {}).splitlines()
    assert lines[2] == "| temperature 0.7, top_p 1, min_p 0 | 0.5 / 2 | 0.5 / 3 | +1.000 |" and len(lines) == 4


def test_a_folder_without_runs_has_no_tables_and_nothing_is_trained(module, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--from", str(tmp_path)])
    assert module("reproduce").main() == 0
    printed = capsys.readouterr()
    assert printed.out.count("no finished run of this table") == 4 and "FAILED" not in printed.err
    assert not list(tmp_path.iterdir())


def scheduler_of(module, tmp_path, code: str, count: int, **settings):
    """A scheduler and ``count`` jobs that run Python code in place of dqo-train."""
    jobs, runs = module("reproduce_jobs"), module("reproduce_runs")
    (tmp_path / "dqo").mkdir()
    (tmp_path / "dqo" / "__init__.py").write_text("")
    (tmp_path / "dqo" / "cli.py").write_text(
        f"import os, pathlib, signal, sys\nfolder = pathlib.Path(sys.argv[1])\n{code}\n"
    )
    made = [
        jobs.Job("countdown", f"arm {i}", i, 1.0, tmp_path / "runs" / str(i), (str(tmp_path / "runs" / str(i)),), 60)
        for i in range(count)
    ]
    return runs.Scheduler(settings.pop("slots", 1), settings.pop("deadline", math.inf), **settings), made


WORK = """
if folder.name == "1": sys.exit("no such thing")
folder.mkdir()
(folder / "summary.json").write_text(os.environ["OMP_NUM_THREADS"])
"""


def test_a_run_that_fails_is_named_and_stops_no_other_and_a_finished_one_is_not_repeated(
    module, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # python -m finds the stand-in of dqo.cli here
    scheduler, jobs = scheduler_of(module, tmp_path, WORK, 3)
    scheduler.run(jobs, "main")
    assert [job.is_done for job in jobs] == [True, False, True] and scheduler.failed == [jobs[1]]
    assert (jobs[0].folder / "summary.json").read_text() == "1"
    assert float((tmp_path / "runs" / "0.cpu").read_text()) > 0
    printed = capsys.readouterr().err
    assert "[2/3] countdown: arm 1, seed 1 (1): FAILED, exit code 1: no such thing" in printed
    scheduler.run(jobs, "main")
    assert "main: 2 of 3 runs are done" in capsys.readouterr().err


def test_no_run_is_started_that_would_end_too_late(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scheduler, jobs = scheduler_of(module, tmp_path, WORK, 3, deadline=time.monotonic() + 30)  # a job expects 60 s
    scheduler.run(jobs, "main")
    assert scheduler.skipped == jobs and not scheduler.failed
    scheduler, jobs = scheduler.__class__(1, time.monotonic() + 30, seconds=1.0), jobs[::2]
    scheduler.run(jobs, "main")
    assert not scheduler.skipped and all(job.is_done for job in jobs)


def test_a_stopped_script_stops_its_runs(tmp_path):
    (tmp_path / "dqo").mkdir()
    (tmp_path / "dqo" / "__init__.py").write_text("")
    (tmp_path / "dqo" / "cli.py").write_text(
        "import pathlib, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('stopped').touch(), exit(1)))\n"
        "print('begun', flush=True)\nsignal.pause()\n"
    )
    code = (
        "import math, pathlib, signal, sys\nsys.path[:0] = [sys.argv[1]]\n"
        "from reproduce_runs import Scheduler\nfrom reproduce_jobs import Job\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "folder = pathlib.Path('run').absolute()\nprint('begun', flush=True)\n"
        "Scheduler(1, math.inf).run([Job('t', 'a', 0, 1.0, folder, ('train',), 60)] * 3, 'main')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(SCRIPTS)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    log = tmp_path / "run.log"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "stopped").exists()
