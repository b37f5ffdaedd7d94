import json
import logging
import os
import random
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dqo.errors import ConfigError, StageError
from dqo.files.checkpoint import Checkpoints, restore, restore_generators
from tests.helpers.scripted_stages import NoAdvantage
from tests.helpers.stateful_stages import OneTensorLearner, RunningMean, make_stages
from tests.learner.builders import adaptive_entropy, clip


def draw() -> tuple[float, float, float]:
    """A number of each global generator. Python's is a Gaussian: those come in pairs, and the stored second one is a
    part of the state that beartype, which draws from the same generator, does not change."""
    return random.gauss(), float(numpy.random.rand()), float(torch.rand(()))


def test_stages_generators_and_the_callers_entries_are_restored(tmp_path):
    random.gauss()
    path = Checkpoints(tmp_path, keep_last=1).save(12, 48, make_stages(7.0), {"metrics_offset": 1234, "wandb": None})
    after_save = draw()
    learner, advantage = OneTensorLearner(), RunningMean()
    resumed = restore(path, replace(make_stages(), learner=learner, advantage=advantage))
    assert (resumed.step, resumed.cursor, resumed.extra) == (12, 48, {"metrics_offset": 1234, "wandb": None})
    assert learner.weight.tolist() == [7.0] * 3
    assert advantage.mean == 7.0 / 3  # exactly
    draw()  # like the building of a run
    restore_generators(path)
    assert draw() == after_save


def test_nothing_is_pickled(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_the_newest_are_kept_and_older_ones_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    (tmp_path / "step_00009.mine").mkdir()
    for step in (9, 10, 99_999, 100_000):
        checkpoints.save(step, step, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00009.mine", "step_100000", "step_99999"]
    assert checkpoints.latest().name == "step_100000"


def test_an_unfinished_checkpoint_is_ignored_and_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    checkpoints.save(1, 4, make_stages(), {})
    shutil.copytree(tmp_path / "step_00001", tmp_path / ".step_00002")  # killed just before the rename
    assert Checkpoints(tmp_path, keep_last=3).latest().name == "step_00001"
    checkpoints.save(2, 8, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00001", "step_00002"]


def test_a_failed_save_leaves_the_older_checkpoint(tmp_path):
    class FullDisk(OneTensorLearner):
        def save(self, folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise OSError("No space left on device")

    checkpoints = Checkpoints(tmp_path, keep_last=1)
    checkpoints.save(1, 4, make_stages(), {})
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, 8, replace(make_stages(), learner=FullDisk()), {})
    assert checkpoints.latest().name == "step_00001"


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "learner" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "learner" / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, r"learner/model.safetensors is corrupt \(its checksum differs\)"),
        (lambda path: (path / "state.json").write_text("{}"), "state.json has 2 bytes"),
        (lambda path: (path / "rng.safetensors").unlink(), "rng.safetensors is missing"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_and_logged(tmp_path, caplog, damage, reason):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    for step in (1, 2):
        checkpoints.save(step, step, make_stages(), {})
    damage(tmp_path / "checkpoints" / "step_00002")
    with caplog.at_level(logging.WARNING, "dqo"):
        assert checkpoints.latest().name == "step_00001"
    assert "step_00002" in caplog.text
    damage(tmp_path / "checkpoints" / "step_00001")
    with pytest.raises(ConfigError, match=f"resume={tmp_path}: no usable checkpoint .*step_00001: {reason}"):
        checkpoints.latest()


def test_a_save_removes_a_later_damaged_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (10, 20):
        checkpoints.save(step, step, make_stages(), {})
    flip_a_bit(tmp_path / "step_00020")
    checkpoints.save(15, 15, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00010", "step_00015"]


def test_a_process_saves_a_step_once_and_another_process_saves_it_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for value in (1.0, 2.0):  # SIGTERM after a step that is saved anyway
        path = checkpoints.save(15, 15, make_stages(value), {})
    assert load_file(path / "learner" / "model.safetensors")["weight"][0] == 1.0
    Checkpoints(tmp_path, keep_last=2).save(15, 15, make_stages(3.0), {})
    assert load_file(path / "learner" / "model.safetensors")["weight"][0] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["step_00015"]


def test_forget_after_removes_later_checkpoints_and_leftovers(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (10, 20, 30):
        checkpoints.save(step, step, make_stages(), {})
    shutil.copytree(tmp_path / "step_00030", tmp_path / ".step_00040")
    shutil.copytree(tmp_path / "step_00030", tmp_path / ".old-step_00005")
    assert checkpoints.named("step_00010").name == "step_00010"
    checkpoints.forget_after(10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00010"]


def test_a_named_checkpoint_that_is_damaged_or_missing_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=3)
    for step in (10, 20):
        checkpoints.save(step, step, make_stages(), {})
    flip_a_bit(tmp_path / "checkpoints" / "step_00020")
    with pytest.raises(ConfigError, match=f"is corrupt .*; type resume={tmp_path} for the newest"):
        checkpoints.named("step_00020")
    with pytest.raises(ConfigError, match="does not exist; the run has the checkpoints: step_00010, step_00020; type"):
        checkpoints.named("step_00015")


def test_multiples_of_keep_every_are_kept_permanently(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=20)
    for step in (10, 20, 25, 30, 40, 50, 60, 70):
        checkpoints.save(step, step, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00020", "step_00040", "step_00060", "step_00070",
    ]  # fmt: skip


def test_latest_is_none_without_checkpoints(tmp_path):
    assert Checkpoints(tmp_path, keep_last=1).latest() is None


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.rglob("*") if file.is_file()} == {"0o640"}


def test_a_full_disk_leaves_the_older_checkpoint_and_no_partial_one(tmp_path):
    """A limit on the size of a file simulates the full disk."""
    checkpoints, stages = Checkpoints(tmp_path, keep_last=1), make_stages()
    checkpoints.save(1, 4, stages, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (20, 1000):  # too small for the learner's file; for state.json
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises((OSError, SafetensorError), match="File too large"):
                checkpoints.save(2, 8, stages, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["step_00001"]
    assert checkpoints.latest() == tmp_path / "step_00001"


def test_a_deleted_run_folder_is_not_created_again(tmp_path):
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep_last=1)
    checkpoints.save(1, 4, make_stages(), {})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        checkpoints.save(2, 8, make_stages(), {})
    assert not (tmp_path / "run").exists()


def test_a_stage_whose_state_is_missing_on_one_side_is_refused(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    with pytest.raises(
        ConfigError, match="the checkpoint's advantage has a state and this run's has none; resume with"
    ):
        restore(path, replace(make_stages(), advantage=NoAdvantage()))
    path = Checkpoints(tmp_path, keep_last=1).save(2, 4, replace(make_stages(), advantage=NoAdvantage()), {})
    with pytest.raises(ConfigError, match="this run's advantage has a state"):
        restore(path, make_stages())


def test_a_stage_without_anything_to_save_resumes_from_a_checkpoint_that_does_not_know_it(tmp_path):
    """A loss without terms, and a checkpoint of a dqo that had no state of losses; and the other way round."""
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    assert restore(path, make_stages(loss=clip())).step == 1
    path = Checkpoints(tmp_path, keep_last=1).save(2, 4, make_stages(loss=clip()), {})
    assert restore(path, make_stages()).step == 2
    for number, older in enumerate([make_stages(), make_stages(loss=clip())], start=3):
        path = Checkpoints(tmp_path, keep_last=1).save(number, 4, older, {})
        with pytest.raises(ConfigError, match=r"this run's loss has a state and .* resume with the same loss="):
            restore(path, make_stages(loss=clip(terms={"a": adaptive_entropy()})))


def test_a_state_that_is_empty_at_the_start_is_restored(tmp_path):
    class Filling(NoAdvantage):
        seen = ()

        def state_dict(self):
            return dict.fromkeys(self.seen, 1)

        def load_state_dict(self, state):
            self.seen = tuple(state)

    first, again = Filling(), Filling()
    first.seen = ("a", "b")
    restore(
        Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(advantage=first), {}), make_stages(advantage=again)
    )
    assert again.seen == ("a", "b")


def test_the_state_of_a_losss_terms_is_restored(tmp_path):
    term = adaptive_entropy(coefficient=0.03)
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(loss=clip(terms={"a": term})), {})
    again = adaptive_entropy(coefficient=0.0)
    restore(path, make_stages(loss=clip(terms={"a": again})))
    assert again.coefficient == 0.03
    with pytest.raises(ConfigError, match=r"the checkpoint's loss\.terms\.a has a state"):
        restore(path, make_stages(loss=clip()))


def test_other_versions_are_logged(tmp_path, caplog):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    restore(path, make_stages())
    assert not caplog.messages
    state = json.loads((path / "state.json").read_text())
    state["versions"]["torch"] = "1.0"
    (path / "state.json").write_text(json.dumps(state))
    restore(path, make_stages())
    assert caplog.messages == [f"saved with torch 1.0, resumed with {torch.__version__}: numbers may differ"]


def test_a_state_that_is_not_json_is_an_error_with_its_stage(tmp_path):
    with pytest.raises(StageError, match=r"\[advantage\] state_dict\(\) is not JSON"):
        Checkpoints(tmp_path, keep_last=1).save(1, 4, replace(make_stages(), advantage=RunningMean(float("nan"))), {})


def test_the_disk_space_is_logged_before_the_first_save(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "not" / "there", keep_last=2, keep_every=20)
    with caplog.at_level(logging.INFO, "dqo"):
        checkpoints.announce(1_620_000_000, every=10, steps=45, policy=540_000_000)
    # three while one is being written, and 20 and 40 permanently
    assert "5 checkpoints of about 1.62 GB and a policy of 540 MB, 8.64 GB in total; " in caplog.text


def test_too_little_disk_space_is_a_warning(tmp_path, caplog):
    Checkpoints(tmp_path, keep_last=1).announce(10**18, every=10, steps=10, policy=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_manifest_lists_every_file(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["learner/model.safetensors", "rng.safetensors", "state.json"]
