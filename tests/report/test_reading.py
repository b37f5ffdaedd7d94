import json
import shutil

import pytest

from dqo.errors import ConfigError
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_eval, write_run, write_sweep


def test_a_run_is_read_with_its_ends_and_its_command(tmp_path):
    (run,) = read_folders([str(write_run(tmp_path / "a", alpha=2, k=4, seed=1))]).runs
    assert run.before and run.after
    assert (run.before.step, run.after.step, run.after.n, run.after.prompts) == (0, 20, 10, 16)
    assert run.command == "dqo-train alpha=2 k=4 seed=1"  # without Hydra's own keys
    assert run.version == "0.1.0" and not run.notes
    assert len(run.after.per_prompt["pass@1"]) == 16
    assert run.after.passes and run.after.passes.mean[0] == pytest.approx(run.after.means["pass@1"])


def test_a_killed_run_is_read_with_what_it_has(tmp_path):
    folder = write_run(tmp_path / "a", complete=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "rew')
    (run,) = read_folders([str(folder)]).runs
    assert run.after is None and run.before is not None
    assert run.notes == (f"not complete: 10 of 20 steps; go on with dqo-train resume={folder}",)
    assert max(line["step"] for line in run.lines) == 10


def test_a_run_of_an_older_dqo_has_means_alone(tmp_path):
    folder = write_run(tmp_path / "a", old=True)
    shutil.rmtree(folder / "policy")
    (run,) = read_folders([str(folder)]).runs
    assert run.after and not run.after.per_prompt and run.after.means["pass@1"] > 0
    assert run.version == "unknown"
    shutil.rmtree(folder / "evaluations")
    (run,) = read_folders([str(folder)]).runs  # those of summary.json
    assert run.after and run.before and run.after.means["pass@1"] > run.before.means["pass@1"]


def test_a_sweep_says_which_jobs_are_missing(tmp_path):
    jobs = [{"alpha": 0}, {"alpha": 1, "complete": False}, {"alpha": 2}]
    source = read_folders([str(write_sweep(tmp_path / "s", jobs, planned="alpha=0,1,2,3"))])
    assert [run.name for run in source.runs] == ["0_alpha=0", "1_alpha=1", "2_alpha=2"]
    (note,) = source.notes
    assert "2 of 4 jobs are complete" in note and "1_alpha=1" in note and "1 left no folder" in note


def test_a_complete_sweep_has_no_note(tmp_path):
    folder = write_sweep(tmp_path / "s", [{"alpha": a} for a in (0, 1)], planned="alpha=0,1 model=tiny")
    assert read_folders([str(folder), str(folder / "0_alpha=0")]).notes == ()
    assert len(read_folders([str(folder), str(folder / "0_alpha=0")]).runs) == 2  # none twice


def test_an_evaluation_is_read_with_its_controls(tmp_path):
    (each,) = read_folders([str(write_eval(tmp_path / "e", controls=True, temperatures=(0.7, 1.0)))]).evals
    assert len(each.cells) == 10 and sum(cell.is_control for cell in each.cells) == 4
    assert each.cells[0].intervals["pass@1"].low <= each.cells[0].means["pass@1"]
    assert each.missing == {"nli_disagreement": "eval.nli=FOLDER of a transformers classifier"}


def wrong(make):
    return pytest.param(make, id=make.__name__)


def nothing(folder):
    return []


def absent(folder):
    return [folder / "typo"]


def empty(folder):
    folder.mkdir(exist_ok=True)
    return [folder]


def a_file(folder):
    (folder / "report.html").write_text("<html>")
    return [folder / "report.html"]


def broken_json(folder):
    run = write_run(folder / "a")
    (run / "evaluations" / "step_00020.json").write_text("{")
    return [run]


def no_finished_job(folder):
    return [write_sweep(folder / "s", [{"alpha": 0, "complete": False}], planned="alpha=0,1")]


def no_evaluation(folder):
    run = write_run(folder / "a", complete=False)
    shutil.rmtree(run / "evaluations")
    return [run]


def killed_eval(folder):
    run = write_eval(folder / "e")
    (run / "eval.json").unlink()
    return [run]


def two_tasks(folder):
    return [write_run(folder / "a"), write_run(folder / "b", task="gsm8k.Gsm8k")]


def another_task_measured(folder):
    return [write_run(folder / "a"), write_eval(folder / "e", task="gsm8k")]


CASES = (
    nothing, absent, empty, a_file, broken_json, no_finished_job, no_evaluation, killed_eval, two_tasks,
    another_task_measured,
)  # fmt: skip


@pytest.mark.parametrize("make", map(wrong, CASES))
def test_wrong_input_is_refused_in_one_line(tmp_path, make):
    folders = make(tmp_path)
    with pytest.raises(ConfigError) as error:
        read_folders([*map(str, folders)])
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    assert any(word in message for word in ("type ", "go on with", "remove it", "dqo-eval")), message


def test_a_table_without_a_task_may_stand_beside_any(tmp_path):
    folder = write_eval(tmp_path / "e")
    record = json.loads((folder / "eval.json").read_text())
    (folder / "eval.json").write_text(json.dumps({**record, "task": None}))
    assert len(read_folders([str(folder), str(write_run(tmp_path / "a"))]).runs) == 1
