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
from safetensors.torch import load_file, save_file

from dqo.errors import ConfigError, StageError
from dqo.files.checkpoint import Checkpoints, restore, restore_generators
from dqo.stages import Stages
from tests.test_evaluation import NoAdvantage, NoLearner, scripted_stages


class OneTensorLearner(NoLearner):
    def __init__(self, value: float = 0.0):
        self.weight = torch.full((3,), value)

    def save(self, folder: Path) -> None:
        save_file({"weight": self.weight}, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        self.weight = load_file(folder / "model.safetensors")["weight"]


class RunningMean(NoAdvantage):
    def __init__(self, mean: float = 0.0):
        self.mean = mean

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def make_stages(value: float = 0.0) -> Stages:
    stages, _ = scripted_stages({})
    return replace(stages, learner=OneTensorLearner(value), advantage=RunningMean(value / 3))


def drawn() -> tuple[float, float, float]:
    """Gaussians come in pairs, and the second of Python's is part of the state that beartype, which draws from the same
    generator, does not move."""
    return random.gauss(), float(numpy.random.rand()), float(torch.rand(()))


def test_restores_stages_generators_and_what_the_caller_added(tmp_path):
    random.gauss()
    path = Checkpoints(tmp_path, keep_last=1).save(12, 48, make_stages(7.0), {"metrics_offset": 1234, "wandb": None})
    after_save = drawn()
    learner, advantage = OneTensorLearner(), RunningMean()
    resumed = restore(path, replace(make_stages(), learner=learner, advantage=advantage))
    assert (resumed.step, resumed.cursor, resumed.extra) == (12, 48, {"metrics_offset": 1234, "wandb": None})
    assert learner.weight.tolist() == [7.0] * 3
    assert advantage.mean == 7.0 / 3  # exactly
    drawn()  # as what is built in between may
    restore_generators(path)
    assert drawn() == after_save


def test_nothing_is_pickled(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    assert {file.suffix for file in path.rglob("*") if file.is_file()} == {".json", ".safetensors"}


def test_keeps_the_last_and_removes_older_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    (tmp_path / "step_00009.mine").mkdir()
    for step in (9, 10, 99_999, 100_000):
        checkpoints.save(step, step, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00009.mine", "step_100000", "step_99999"]
    assert checkpoints.latest().name == "step_100000"


def test_an_unfinished_write_is_never_seen_and_is_swept_up(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    checkpoints.save(1, 4, make_stages(), {})
    shutil.copytree(tmp_path / "step_00001", tmp_path / ".step_00002")  # killed just before the rename
    assert Checkpoints(tmp_path, keep_last=3).latest().name == "step_00001"
    checkpoints.save(2, 8, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00001", "step_00002"]


def test_a_failing_learner_leaves_the_older_checkpoint(tmp_path):
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
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, damage, reason):
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


def test_going_on_past_a_damaged_checkpoint_replaces_it(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for step in (10, 20):
        checkpoints.save(step, step, make_stages(), {})
    flip_a_bit(tmp_path / "step_00020")
    checkpoints.save(15, 15, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00010", "step_00015"]


def test_a_step_is_saved_once_by_a_process_and_again_by_another(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    for value in (1.0, 2.0):  # SIGTERM after a step that is saved anyway
        path = checkpoints.save(15, 15, make_stages(value), {})
    assert load_file(path / "learner" / "model.safetensors")["weight"][0] == 1.0
    Checkpoints(tmp_path, keep_last=2).save(15, 15, make_stages(3.0), {})
    assert load_file(path / "learner" / "model.safetensors")["weight"][0] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["step_00015"]


def test_going_back_forgets_what_came_later_and_what_was_left_behind(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=3)
    for step in (10, 20, 30):
        checkpoints.save(step, step, make_stages(), {})
    shutil.copytree(tmp_path / "step_00030", tmp_path / ".step_00040")
    shutil.copytree(tmp_path / "step_00030", tmp_path / ".old-step_00005")
    assert checkpoints.named("step_00010").name == "step_00010"
    checkpoints.forget_after(10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00010"]


def test_a_named_checkpoint_and_no_other(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=3)
    for step in (10, 20):
        checkpoints.save(step, step, make_stages(), {})
    flip_a_bit(tmp_path / "checkpoints" / "step_00020")
    with pytest.raises(ConfigError, match=f"is corrupt .*: type resume={tmp_path} for the newest"):
        checkpoints.named("step_00020")
    with pytest.raises(ConfigError, match="is not there; there are step_00010, step_00020"):
        checkpoints.named("step_00015")


def test_some_are_kept_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_every=20)
    for step in (10, 20, 25, 30, 40, 50, 60, 70):
        checkpoints.save(step, step, make_stages(), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00020", "step_00040", "step_00060", "step_00070",
    ]  # fmt: skip


def test_no_checkpoint_at_all(tmp_path):
    assert Checkpoints(tmp_path, keep_last=1).latest() is None


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in path.rglob("*") if file.is_file()} == {"0o640"}


def test_a_full_disk_keeps_the_older_checkpoint_and_gives_its_room_back(tmp_path):
    """A limit on the size of a file stands in for the disk's."""
    checkpoints, stages = Checkpoints(tmp_path, keep_last=1), make_stages()
    checkpoints.save(1, 4, stages, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (20, 1000):  # of the learner's file; of state.json
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises((OSError, SafetensorError), match="File too large"):
                checkpoints.save(2, 8, stages, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert [path.name for path in tmp_path.iterdir()] == ["step_00001"]
    assert checkpoints.latest() == tmp_path / "step_00001"


def test_a_run_folder_that_vanished_is_not_made_again(tmp_path):
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep_last=1)
    checkpoints.save(1, 4, make_stages(), {})
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        checkpoints.save(2, 8, make_stages(), {})
    assert not (tmp_path / "run").exists()


def test_another_option_than_the_saved_one_is_refused(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    with pytest.raises(ConfigError, match="the checkpoint advantage has a state"):
        restore(path, replace(make_stages(), advantage=NoAdvantage()))
    path = Checkpoints(tmp_path, keep_last=1).save(2, 4, replace(make_stages(), advantage=NoAdvantage()), {})
    with pytest.raises(ConfigError, match="this run's advantage has a state"):
        restore(path, make_stages())


def test_other_versions_are_named(tmp_path, caplog):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    restore(path, make_stages())
    assert not caplog.messages
    state = json.loads((path / "state.json").read_text())
    state["versions"]["torch"] = "1.0"
    (path / "state.json").write_text(json.dumps(state))
    restore(path, make_stages())
    assert caplog.messages == [f"saved with torch 1.0, resumed with {torch.__version__}: numbers may differ"]


def test_a_state_that_is_not_json_names_its_stage(tmp_path):
    with pytest.raises(StageError, match=r"\[advantage\] state_dict\(\) is not JSON"):
        Checkpoints(tmp_path, keep_last=1).save(1, 4, replace(make_stages(), advantage=RunningMean(float("nan"))), {})


def test_the_size_is_told_before_the_first_save(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "not" / "there", keep_last=2, keep_every=20)
    with caplog.at_level(logging.INFO, "dqo"):
        checkpoints.announce(1_620_000_000, every=10, steps=45, policy=540_000_000)
    # three at a time while one is written, and 20 and 40 for good
    assert "5 checkpoints of about 1.62 GB and a policy of 540 MB, 8.64 GB in all; " in caplog.text


def test_a_disk_that_is_too_small_is_a_warning(tmp_path, caplog):
    Checkpoints(tmp_path, keep_last=1).announce(10**18, every=10, steps=10, policy=0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("kept", "key"), [({"keep_last": 0}, "keep_last=1"), ({"keep_last": 1, "keep_every": -1}, "keep_every=0")]
)
def test_to_keep_none_is_refused(tmp_path, kept, key):
    with pytest.raises(ConfigError, match=f"type checkpoint.{key}"):
        Checkpoints(tmp_path, **kept)


def test_the_manifest_lists_every_file(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["learner/model.safetensors", "rng.safetensors", "state.json"]
