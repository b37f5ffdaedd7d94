import json
import logging
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from dqo.checkpoint import Checkpoints, restore
from dqo.errors import ConfigError, StageError
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
    checkpoints.save(15, 15, make_stages(5.0), {})  # the same step again
    assert load_file(checkpoints.latest() / "learner" / "model.safetensors")["weight"][0] == 5.0


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(ConfigError, match="there is none"):
        Checkpoints(tmp_path, keep_last=1).latest()


def test_another_option_than_the_saved_one_is_refused(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    with pytest.raises(ConfigError, match="the checkpoint advantage has a state"):
        restore(path, replace(make_stages(), advantage=NoAdvantage()))
    path = Checkpoints(tmp_path, keep_last=1).save(2, 4, replace(make_stages(), advantage=NoAdvantage()), {})
    with pytest.raises(ConfigError, match="this run's advantage has a state"):
        restore(path, make_stages())


def test_a_state_that_is_not_json_names_its_stage(tmp_path):
    with pytest.raises(StageError, match=r"\[advantage\] state_dict\(\) is not JSON"):
        Checkpoints(tmp_path, keep_last=1).save(1, 4, replace(make_stages(), advantage=RunningMean(float("nan"))), {})


def test_the_size_is_told_before_the_first_save(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "dqo"):
        Checkpoints(tmp_path / "not" / "there", keep_last=2, parameters=135_000_000)
    assert "a checkpoint is about 1.62 GB; checkpoint.keep_last=2 needs 4.86 GB" in caplog.text


def test_the_size_is_measured_where_it_was_not_told(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    with caplog.at_level(logging.INFO, "dqo"):
        for step in (1, 2):
            checkpoints.save(step, 0, make_stages(), {})
    assert caplog.text.count("a checkpoint is about") == 1


def test_keep_last_of_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"type checkpoint\.keep_last=1"):
        Checkpoints(tmp_path, keep_last=0)


def test_the_manifest_lists_every_file(tmp_path):
    path = Checkpoints(tmp_path, keep_last=1).save(1, 4, make_stages(), {})
    listed = json.loads((path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["learner/model.safetensors", "rng.safetensors", "state.json"]
