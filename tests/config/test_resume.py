import json

import pytest
from omegaconf import OmegaConf

from dqo.config import resume
from dqo.config.typed import check, to_yaml
from dqo.errors import ConfigError
from tests.config.builders import composed


@pytest.fixture
def run(tmp_path):
    """A run that was started with: dqo-train task=concepts steps=20 optim.steps=${steps} run_dir=…"""
    folder = tmp_path / "run"
    folder.mkdir()
    typed = ["task=concepts", "steps=20", "optim.steps=${steps}", f"run_dir={folder}"]
    OmegaConf.save(OmegaConf.create(typed), folder / "overrides.yaml")
    (folder / "config.yaml").write_text(to_yaml(check(config(run_dir=str(folder)))))
    return folder


def config(**changes):
    return composed("task=concepts", **({"steps": 20, "optim__steps": 20, "run_dir": "runs/now"} | changes))


def test_the_saved_command_line_joins_what_is_typed_which_wins(run):
    given = ["--config-dir", "mine", "steps=40", f"resume={run}", "log.live=false"]
    assert resume.with_saved_overrides(given) == [
        "--config-dir", "mine", "steps=40", "task=concepts", "optim.steps=${steps}", f"resume={run}", "log.live=false",
    ]  # fmt: skip


def test_of_a_checkpoint_in_it(run):
    given = [f"resume={run}/checkpoints/step_00010"]
    assert resume.with_saved_overrides(given)[0] == "task=concepts"
    assert resume.run_of(given[0].removeprefix("resume=")) == run
    assert resume.checkpoint_of(given[0]) == "step_00010"
    assert resume.checkpoint_of(str(run)) is None


def test_auto_goes_on_where_there_is_a_run_and_starts_one_where_there_is_none(run, tmp_path):
    assert "task=concepts" in resume.with_saved_overrides([f"run_dir={run}", "resume=auto"])
    fresh = ["task=cities", f"run_dir={tmp_path}/other", "resume=auto"]
    assert resume.with_saved_overrides(fresh) == fresh
    there, not_there = (config(run_dir=str(folder), resume="auto") for folder in (run, tmp_path / "other"))
    assert resume.settle(there, sweep=False) == f"{run} holds a run: going on with it"
    assert resume.settle(not_there, sweep=True) == f"{tmp_path}/other holds no run yet: starting it"
    assert (there.resume, not_there.resume) == (str(run), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume=auto"], r"^resume=auto: of which run\? type run_dir=FOLDER beside it$"),
        (["resume=nowhere"], "^resume=nowhere: no run is there; type resume=FOLDER_OF_A_RUN$"),
    ],
)
def test_what_there_is_nothing_to_go_on_with(arguments, message):
    with pytest.raises(ConfigError, match=message):
        resume.with_saved_overrides(arguments)


def test_a_folder_without_its_last_file_holds_no_run(run):
    (run / "config.yaml").unlink()  # killed in between
    with pytest.raises(ConfigError, match="no run is there"):
        resume.with_saved_overrides([f"resume={run}"])


def test_one_run_is_no_sweep(run):
    with pytest.raises(ConfigError, match="in a sweep: type resume=auto"):
        resume.settle(config(resume=str(run)), sweep=True)


def test_what_changed_is_named_and_what_may_not_is_refused(run):
    typed = config(resume=str(run), steps=40, optim__steps="${steps}", log__live=False)
    assert resume.changes(typed, check(typed)) == [
        "log.live=False (was True)", "optim.steps=40 (was 20)", "steps=40 (was 20)",
    ]  # fmt: skip
    other = config(resume=str(run), alpha=3.0)
    with pytest.raises(ConfigError, match=r"with alpha=3\.0 \(the run has 1\.0\): only steps, log, eval, checkpoint"):
        resume.changes(other, check(other))


def test_complete_is_a_run_with_its_last_file_and_nothing_new_to_do(run):
    now = check(config(resume=str(run)))
    assert not resume.is_complete(now, [])
    (run / "summary.json").write_text(json.dumps({"steps": 20}))
    assert resume.is_complete(now, ["log.live=False (was True)"])
    assert not resume.is_complete(now, ["eval.n=40 (was 10)"])
    assert not resume.is_complete(check(config(resume=str(run), steps=40)), ["steps=40 (was 20)"])
    assert not resume.is_complete(check(config(resume=f"{run}/checkpoints/step_00010")), [])
