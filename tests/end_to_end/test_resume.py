"""Runs that are stopped, killed, pushed aside or out of room, and gone on with."""

import ctypes
import json
import logging
import os
import resource
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.end_to_end.conftest import SMALL, lines
from tests.helpers.commands import run_in_process
from tests.helpers.processes import wait_for

pytestmark = pytest.mark.slow

LONG = (*SMALL, "steps=100000", "embed=fake", "checkpoint.every=1", "run_dir=run")


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def no_large_files() -> None:
    """The weights of a checkpoint can be written, the optimizer's moments cannot."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000))


def modes_count() -> None:
    """Also for root."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP CAP_DAC_OVERRIDE


def test_a_resumed_run_equals_the_uninterrupted_one_after_a_full_disk_too(dqo, dqo_here, tmp_path):
    exact = (
        *SMALL, "checkpoint.every=2", "eval.every=2", "checkpoint.final=false", "advantage=unbiased",
        "optim=adamw",  # a rate that falls to 0 over `steps` falls slower where `steps` grows
    )  # fmt: skip
    dqo_here(*exact, "steps=4", "run_dir=whole")
    dqo_here(*exact, "steps=2", "run_dir=parts")
    text = dqo("resume=parts", "steps=4", code=1, limits=no_large_files)
    assert "going on with other optim.steps=4 (was 2), steps=4 (was 2)" in text
    assert "File too large" in text and "error.txt" in text
    assert "the checkpoint after step 2 is kept; go on with dqo-train resume=parts" in text
    dqo_here("resume=parts")  # to step 4, as was typed last
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lines(parts) == lines(whole) and len(lines(whole)) == 7
    for name in ("step_00001.parquet", "step_00004.parquet"):
        assert pq.read_table(parts / "completions" / name).equals(pq.read_table(whole / "completions" / name))
    assert (parts / "summary.json").read_text() == (whole / "summary.json").read_text()
    assert "parts is complete; type steps=8 to train on" in dqo_here("resume=parts")
    text = dqo_here("resume=parts", "steps=3", code=2)
    assert "steps=3: parts/checkpoints/step_00004 is after step 4; type steps=4 or more" in text
    assert yaml.safe_load((parts / "config.yaml").read_text())["steps"] == 4


def test_a_resume_with_another_eval_n_compares_only_what_does_not_depend_on_it(dqo_here, capsys, tmp_path):
    quick = ("embed=fake", "rollout=fake", "warm_start=false", "checkpoint.every=2")
    dqo_here(*SMALL, *quick, "run_dir=run")
    capsys.readouterr()
    dqo_here("resume=run", "steps=4", "eval.n=32", "eval.every=1")
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["logdet"][0] == "–" and rows["logdet"][2] == "–" and "–" not in rows["pass@1"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["before"]["n"] == 10 and summary["after"]["n"] == summary["n"] == 32
    assert summary["before"]["logdet"] is None and summary["before"]["pass@1"] is not None
    assert "n = 10 completions of each prompt against n = 32" in summary["not_compared"]
    evaluated = [line["eval/n"] for line in lines(tmp_path / "run") if "eval/n" in line]
    assert evaluated == [10, 32, 32, 32]  # step 2 too, which is due now


def test_a_resumed_run_with_loras_dropout_equals_the_uninterrupted_one(dqo_here, tmp_path):
    quick = (
        *SMALL, "embed=fake", "warm_start=false", "checkpoint.every=2", "checkpoint.final=false", "optim=adamw",
    )  # fmt: skip
    lora = ("learner.lora_r=4", "learner.lora_dropout=0.1", "learner.num_iterations=2", "optim.learning_rate=0.01")
    dqo_here(*quick, *lora, "steps=4", "run_dir=whole")
    dqo_here(*quick, *lora, "steps=2", "run_dir=parts")
    dqo_here("resume=parts", "steps=4")
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [line for line in parts if "loss" in line] == [line for line in whole if "loss" in line]
    assert all(line["sampling/importance_sampling_ratio/max"] < 1.01 for line in whole if "loss" in line)


def test_one_owner_and_sigterm_saves(dqo_here, start, tmp_path):
    first, run = start(*LONG), tmp_path / "run"
    wait_for(run / "checkpoints" / "step_00001", first)
    config = (run / "config.yaml").read_bytes()
    for second in (LONG, ("resume=run",), (*LONG, "resume=auto")):
        assert "run_dir=run is in use by process" in dqo_here(*second, code=2)
    assert (run / "config.yaml").read_bytes() == config
    first.send_signal(signal.SIGTERM)
    text = first.communicate(timeout=600)[0]
    assert first.returncode == 130, text
    newest = len(list((run / "completions").iterdir()))
    assert f"stopped after step {newest}; the checkpoint after step {newest} is kept; go on with dqo-train" in text
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{newest:05d}"]
    before = files_of(run)
    assert "run_dir=run holds a run already (config.yaml); type resume=run to go on" in dqo_here(*LONG, code=2)
    assert files_of(run) == {**before, run / ".lock": (run / ".lock").read_bytes()}


def test_a_killed_launcher_leaves_no_worker_and_loses_no_step(dqo, start, tmp_path):
    first, run = start(*LONG), tmp_path / "run"
    wait_for(run / "checkpoints" / "step_00002", first)
    first.kill()
    first.communicate(timeout=600)  # until the worker, which has the pipe open, has ended
    newest = len(list((run / "completions").iterdir()))
    text = dqo("resume=run", f"steps={newest + 1}", "log.wandb=false")
    assert f"going on from run/checkpoints/step_{newest:05d}" in text


def test_a_folder_that_vanishes_ends_the_run(start, tmp_path):
    process, run = start(*LONG), tmp_path / "run"
    wait_for(run / "checkpoints" / "step_00001", process)
    run.rename(tmp_path / "moved")
    text = process.communicate(timeout=600)[0]
    assert process.returncode == 1, text
    last = text.splitlines()[-1]
    assert last.startswith("dqo-train: ") and ("was removed, moved or replaced" in last or "No such file" in last)
    assert not run.exists() and list((tmp_path / "moved" / "checkpoints").glob("step_*"))


def test_ended_before_its_first_checkpoint_it_starts_anew_by_its_own_presets(dqo_here, tmp_path, caplog):
    caplog.set_level(logging.INFO, "dqo")
    presets = tmp_path / "my conf" / "experiment"
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text("# @package _global_\nprompts_per_step: 1\n")
    mine = ("--config-dir", "my conf", *SMALL, "embed=fake", "rollout=fake", "warm_start=false", "experiment=mine")
    assert "run holds no run yet: starting it" in dqo_here(*mine, "run_dir=run", "resume=auto")
    whole, run = lines(tmp_path / "run"), tmp_path / "run"
    (run / "summary.json").unlink()  # as a killed one has none
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    dqo_here("resume=run")
    assert "run was ended before its first checkpoint: it starts anew" in caplog.text
    assert lines(run) == whole
    assert "run is complete" in dqo_here(*mine, "run_dir=run", "resume=auto")
    assert "2 steps are done and there is no checkpoint" in dqo_here("resume=run", "steps=9", code=2)


def test_wrong_input_found_by_the_worker_leaves_a_folder_as_it_was(dqo_here, tmp_path):
    wrong = (*SMALL, "reward=python", "reward.function=nowhere.score")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for folder in ("mine", "runs/deep/run"):
        assert "there is no module nowhere" in dqo_here(*wrong, f"run_dir={folder}", code=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert not (tmp_path / "runs").exists()


LATE = """
from dqo.errors import ConfigError

class Late:
    uses_embeddings = False
    calls = 0

    def assign(self, rollouts, rewards, embeddings_PKD):
        self.calls += 1
        if self.calls > 2:  # of two groups a step
            raise ConfigError("late")
        return 0 * rewards.total_PK
"""


def test_wrong_input_found_late_takes_nothing_away(dqo, tmp_path):
    (tmp_path / "my_module.py").write_text(LATE)
    (tmp_path / "mine" / "credit").mkdir(parents=True)
    (tmp_path / "mine" / "credit" / "late.yaml").write_text("_target_: my_module.Late\n")
    fake = (*SMALL, "rollout=fake", "embed=fake", "warm_start=false", "checkpoint.every=1")
    text = dqo("--config-dir", "mine", *fake, "credit=late", "run_dir=run", code=1)
    again = "a resumed run would come to the same error: mend what it names first"
    assert f"dqo-train: late; the checkpoint after step 1 is kept; {again}" in text and "go on with" not in text
    assert (tmp_path / "run" / "checkpoints" / "step_00001").exists()


def test_a_read_only_folder_is_refused(dqo, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o500)
    text = dqo(*SMALL, "run_dir=runs/a", code=2, limits=modes_count)
    assert "run_dir=runs/a: cannot be written (Permission denied); type run_dir=ANOTHER_FOLDER" in text
    shutil.rmtree(tmp_path / "runs")


def test_sft_has_nothing_to_resume(dqo):
    for resume in ("resume=run", "++resume=run"):
        assert "resume=run: dqo-sft starts anew" in dqo("model=tiny", "task=concepts", resume, command="sft", code=2)
    text = dqo("model=tiny", "task=concepts", "nproc=2", command="sft", code=2)
    assert "dqo-sft is one process; start it without torchrun and without nproc" in text


REWARD = """
from pathlib import Path

def score(completions, answer, **columns):
    longest = int(Path("longest.txt").read_text())  # relative to the folder in which the run was started
    return [min(len(text), longest) / longest + (a == "elsewhere") for text, a in zip(completions, answer)]
"""


def write_project(folder: Path, answer: str, count: int) -> None:
    folder.mkdir()
    rows = "".join(f'{{"prompt": "dog {n}", "answer": "{answer}"}}\n' for n in range(count))
    (folder / "my.jsonl").write_text(rows)
    (folder / "my_module.py").write_text(REWARD)
    (folder / "longest.txt").write_text("9" if answer == "project" else "x")


def test_a_resume_from_another_folder_reads_the_file_of_the_run(dqo_here, tmp_path, monkeypatch, capsys):
    project, elsewhere = tmp_path / "my project", tmp_path / "elsewhere"
    write_project(project, "project", 20)
    write_project(elsewhere, "elsewhere", 20)
    (project / "conf" / "experiment").mkdir(parents=True)
    (project / "conf" / "experiment" / "mine.yaml").write_text("# @package _global_\ntask:\n  path: my.jsonl\n")
    monkeypatch.chdir(project)
    small = (
        "hydra.searchpath=[file://conf]", "experiment=mine", "model=tiny", "task=jsonl", "task.chat_template=false",
        "reward=python", "reward.function=my_module.score", "rollout=fake", "embed=fake", "k=3", "prompts_per_step=2",
        "eval.n=3", "eval.prompts=2",
        "eval.every=0", "log.tensorboard=false", "log.live=false", "max_completion_length=8",
    )  # fmt: skip
    dqo_here(*small, "steps=1", "checkpoint.every=1", "run_dir=run")
    run = project / "run"
    assert yaml.safe_load((run / "config.yaml").read_text())["task"]["path"] == str(project / "my.jsonl")
    assert f"task.path='{project}/my.jsonl'" in yaml.safe_load((run / "overrides.yaml").read_text())
    assert str(project) not in capsys.readouterr().out  # the commands that it prints are short, as what was typed

    monkeypatch.chdir(elsewhere)
    dqo_here("resume=../my project/run", "steps=2")
    assert f"going on in {project}, where the run was started" in capsys.readouterr().err
    assert lines(run)[-1]["step"] == 2 and max(line.get("reward", 0) for line in lines(run)) <= 1
    assert Path.cwd() == elsewhere and not (elsewhere / "run").exists()

    (project / "my.jsonl").rename(elsewhere / "moved.jsonl")
    dqo_here("resume=../my project/run", "steps=3", "task.path=moved.jsonl")
    assert f"task.path={elsewhere}/moved.jsonl (was {project}/my.jsonl)" in capsys.readouterr().err

    before = files_of(run)
    for typed, says in (
        ("task.path=my.jsonl", "not the training rows that the run was started with (now 18 rows"),
        ("task.path=gone.jsonl", "gone.jsonl: No such file or directory; type task.path=FILE"),
        ("reward.function=my_module.other", "reward.function=my_module.other (the run has my_module.score)"),
    ):
        assert run_in_process("train", ["resume=../my project/run", "steps=4", typed], monkeypatch) == 2
        assert says in capsys.readouterr().err
    assert files_of(run) == {**before, run / ".lock": (run / ".lock").read_bytes()}
    shutil.move(project, tmp_path / "moved project")  # and the file of the rows with it
    monkeypatch.chdir(tmp_path / "moved project")
    dqo_here("resume=run", "steps=4")
    assert f"{project}, where the run was started, is gone: going on in {Path.cwd()}" in capsys.readouterr().err


def test_a_run_killed_after_its_reference_samples_equals_one_that_was_not(dqo_here, start, tmp_path):
    exact = (
        *SMALL, "embed=fake", "credit.gate=reference", "credit.embedding=reference_centred", "steps=10",
        "checkpoint.every=1", "checkpoint.final=false",
    )  # fmt: skip
    killed = start(*exact, "run_dir=killed")
    wait_for(tmp_path / "killed" / "checkpoints" / "step_00001", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = (tmp_path / "killed" / "references.parquet").stat().st_ino
    dqo_here("resume=killed")
    dqo_here(*exact, "run_dir=whole")
    whole, parts = tmp_path / "whole", tmp_path / "killed"
    assert (parts / "references.parquet").stat().st_ino == before, "they were sampled again"
    assert lines(parts) == lines(whole) and len(lines(whole)) == 12
    assert (parts / "references.parquet").read_bytes() == (whole / "references.parquet").read_bytes()
