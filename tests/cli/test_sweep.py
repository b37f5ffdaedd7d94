"""Sweeps: folders, failing jobs, being stopped, and objectives. Jobs are commands of their own that train nothing."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

from dqo.cli.commands import COMMANDS, Command
from dqo.run import launch
from tests.helpers.commands import run_in_process

STEPS = []  # alphas of the jobs that ran, in order


def job(job) -> None:
    """A run: alpha=3 fails, alpha=4 is stopped by a signal, the metric is alpha."""
    config = job.config
    STEPS.append(config.alpha)
    job.begin()
    if config.alpha == 3:
        raise OSError(28, "No space left on device")
    if config.alpha == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    metrics = {"reward": config.alpha, "vendi": 2 * config.alpha, "pass@1": None, "cosine_distance": 0.5}
    summary = {"steps": config.steps, "before": {"reward": 0.25, "cosine_distance": None}, "after": metrics}
    (job.folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """Runs ``dqo-train -m ARGUMENTS`` in an empty folder; returns the exit code and what was printed on stderr."""
    row = Command(name="train", run=f"{__name__}:job", holds=("config.yaml",), resumable=True, multi_rank=False)
    monkeypatch.setitem(COMMANDS, "train", row)
    monkeypatch.chdir(tmp_path)
    STEPS.clear()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str, small: Sequence[str] = ("credit=dpp", "k=8")) -> tuple[int, str]:
        code = run_in_process("train", ["-m", *small, *arguments], monkeypatch)
        return code, capsys.readouterr().err

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "x").iterdir() if path.is_dir())


def test_a_failing_job_leaves_the_others_and_a_table_says_what_to_type(sweep, tmp_path):
    code, said = sweep("alpha=0,3,1", "run_dir=x")
    assert code == 1 and STEPS == [0, 3, 1]
    table = said[said.index("the sweep in x: 2 done, 1 failed") :].splitlines()
    assert table[1].split() == ["reward", "cosine_distance"]
    assert table[2].split() == ["0", "alpha=0", "done", "0.250", "→", "0.000", "–", "→", "0.500", "x/0_alpha=0"]
    assert table[3].split() == ["1", "alpha=3", "failed", "x/1_alpha=3"]
    assert "No space left on device" in table[4] and table[5].strip() == "type dqo-train resume=x/1_alpha=3"
    assert table[6].split() == ["2", "alpha=1", "done", "0.250", "→", "1.000", "–", "→", "0.500", "x/2_alpha=1"]
    assert table[7].endswith("goes on with dqo-train -m credit=dpp k=8 alpha=0,3,1 run_dir=x resume=auto")
    assert table[8] == "dqo-train: figures and comparison: dqo-report x"
    assert folders(tmp_path) == ["0_alpha=0", "1_alpha=3", "2_alpha=1"] and "Error executing job" not in said


def test_a_sweep_that_is_stopped_ends_with_the_job_and_goes_on_with_the_printed_command(sweep, tmp_path):
    code, said = sweep("alpha=0,4,1,2", "run_dir=x")
    assert code == 130 and STEPS == [0, 4]
    assert "the sweep in x: 2 done, 2 not started" in said and "     alpha=1  not started" in said
    again = shlex.split(said.partition("goes on with ")[2].partition("\n")[0])
    assert again[:2] == ["dqo-train", "-m"]
    code, said = sweep(*again[2:], small=())
    assert code == 0 and STEPS == [0, 4, 1, 2], "jobs that are done are skipped"
    assert said.count("holds a run: going on with it") == 2 and "the sweep in x: 4 done" in said
    assert not (tmp_path / "x" / ".jobs").exists()


def test_a_sweep_of_which_nothing_can_be_trained_is_wrong_input_and_leaves_nothing(sweep, tmp_path):
    code, said = sweep("alpha=-1,-2", "run_dir=x/y")
    assert code == 2 and not STEPS and [*tmp_path.iterdir()] == []
    assert said.count("alpha=-1: 0 or more") == 2  # at once, and in the table
    assert "type dqo-train credit=dpp k=8 alpha=-1 run_dir=x/y/0_alpha=-1" in said
    assert "resume=auto" not in said


def test_a_dry_sweep_leaves_nothing(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("dqo.run.dry_run.run", job)
    assert sweep("alpha=0,1", "dry_run=true")[0] == 0 and STEPS == [0, 1]
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_job(sweep, tmp_path):
    (tmp_path / "file").touch()
    code, said = sweep("alpha=0,1", "run_dir=file")
    assert code == 2 and not STEPS
    assert said == "dqo-train: run_dir=file: cannot be written (Not a directory); type run_dir=ANOTHER_FOLDER\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["k=4,8", "alpha=range(0,2)"], ["0_alpha=0,k=4", "1_alpha=1,k=4", "2_alpha=0,k=8", "3_alpha=1,k=8"]),
        (["task=gsm8k,cities", "~checkpoint.every", "+checkpoint.every=5"], ["0_task=gsm8k", "1_task=cities"]),
        (["credit=glob(dpp_correct_*)", "++sft.steps=5"], ["0_credit=dpp_correct_rbf"]),
        (["alpha=0", "alpha=choice(1)"], ["0_alpha=1"]),
    ],
    ids=str,
)
def test_folders_are_named_by_what_is_swept(sweep, tmp_path, arguments, expected):
    constant = ["reward=python", "reward.function=dir/f.py:g", "credit.gate=none", "log.project=" + "p" * 250]
    code, said = sweep(*constant, *arguments, "run_dir=x")
    assert code == 0, said
    assert folders(tmp_path) == expected


def test_swept_values_that_no_file_name_takes_get_a_folder_each(sweep, tmp_path):
    long = "Recommend a city to somebody who has been everywhere twice: " * 5
    values = ["dir/f.py:g", "dir-f.py-g", f"{long}a", f"{long}b"]
    swept = ",".join(f'"{value}"' for value in values)
    code, said = sweep(f"log.project={swept}", "run_dir=x")
    names = folders(tmp_path)
    assert code == 0, said
    assert len(names) == len(values) and all(len(name.encode()) <= 120 for name in names)
    assert len({name.partition("_")[2] for name in names}) == len(values)
    assert not any(set("/:'\"[] ") & set(name) for name in names)


class OptunaLike(Sweeper):
    """Keeps what the jobs returned, as Optuna's sweeper does; a failure ends it. A plugin of Hydra's by its module."""

    __module__ = "hydra_plugins.optuna_like"
    values: ClassVar[list] = []

    def __init__(self, *, direction: str, params: None):
        pass

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments) -> None:
        fixed = [each for each in arguments if not each.startswith("alpha=")]
        alphas = next(each for each in arguments if each.startswith("alpha=")).partition("=")[2].split(",")
        assert self.launcher
        for number, alpha in enumerate(alphas):
            (done,) = self.launcher.launch([[*fixed, f"alpha={alpha}"]], initial_job_idx=number)
            self.values.append(done.return_value)


@pytest.fixture
def optimiser(monkeypatch):
    """The class, as ``hydra/sweeper=optuna_like``."""
    package, module = ModuleType("hydra_plugins"), ModuleType(OptunaLike.__module__)
    vars(package).update(__path__=[], optuna_like=module)
    vars(module).update(OptunaLike=OptunaLike)
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    Plugins.instance().register(OptunaLike)
    node = {"_target_": f"{OptunaLike.__module__}.OptunaLike", "direction": "maximize", "params": None}
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna_like", node=node)
    OptunaLike.values.clear()
    return OptunaLike


@pytest.mark.parametrize(
    ("objective", "values"), [("objective=reward", [0.0, 2.0]), ("objective=[vendi,reward]", [[0.0, 0.0], [4.0, 2.0]])]
)
def test_a_sweeper_gets_the_metric_that_objective_names(sweep, optimiser, tmp_path, objective, values):
    code, said = sweep("hydra/sweeper=optuna_like", "alpha=0,2", objective, "run_dir=x")
    assert code == 0, said
    assert optimiser.values == values
    assert folders(tmp_path) == ["0_alpha=0", "1_alpha=2"]


def test_a_sweeper_that_needs_a_number_is_refused_without_an_objective(sweep, optimiser, tmp_path):
    code, said = sweep("hydra/sweeper=optuna_like", "alpha=0,2", "run_dir=x")
    assert code == 2 and not STEPS and [*tmp_path.iterdir()] == []
    assert "needs a number from each job; type objective=METRIC" in said


def test_a_failed_job_is_a_failure_for_the_sweeper(sweep, optimiser):
    code, said = sweep("hydra/sweeper=optuna_like", "alpha=0,3,2", "objective=reward", "run_dir=x")
    assert code == 1 and optimiser.values == [0.0] and STEPS == [0, 3], said
    assert "the sweep in x: 1 done, 1 failed" in said and "resume=auto" not in said


def test_an_objective_that_a_run_leaves_undefined_fails_the_job(sweep, optimiser):
    code, said = sweep("hydra/sweeper=optuna_like", "alpha=0,2", "objective=pass@1", "run_dir=x")
    assert code == 1 and optimiser.values == []
    assert "objective=pass@1: x/0_alpha=0/summary.json has no value for it" in said


def test_a_job_without_a_summary_has_no_objective(sweep, optimiser, monkeypatch):
    monkeypatch.setattr(f"{__name__}.job", lambda job: job.begin())  # as another rank of torchrun that was stopped
    code, said = sweep("hydra/sweeper=optuna_like", "alpha=0,2", "objective=reward", "run_dir=x")
    assert code == 1 and "objective=reward: x/0_alpha=0/summary.json has no value for it" in said


@pytest.mark.parametrize(("code", "cause"), [(255, "exit code 255"), (137, "ended by SIGKILL; was it the memory?")])
def test_a_job_that_ends_without_a_word(sweep, monkeypatch, code, cause):
    monkeypatch.setattr(launch, "start", lambda *_, **__: code)  # what it returns where the user's code ends a worker
    ended, said = sweep("alpha=0,1", "run_dir=x")
    assert ended == 1 and said.count(cause) == 2 and "the sweep in x: 2 failed" in said


def test_an_objective_that_no_evaluation_has_is_refused_before_work(sweep):
    code, said = sweep("alpha=0,2", "objective=pas@1", "run_dir=x")
    assert code == 2 and not STEPS
    assert (
        "objective=pas@1: no evaluation with eval.n=10 and eval.metrics=[" in said and "type objective=pass@1" in said
    )
