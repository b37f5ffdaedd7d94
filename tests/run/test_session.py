"""When a run is evaluated and saved."""

import contextlib
import json

import pytest

from dqo.errors import ServiceError, StageError
from dqo.files.checkpoint import Checkpoints
from dqo.run.session import Evaluating, Saving, close_stages
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.stateful_stages import make_stages
from tests.helpers.steps import make_step


def make_evaluating(every: int, said: list, heard: list) -> Evaluating:
    stages, prompts = scripted_stages({0: ["Paris", "Lima"]})
    return Evaluating(
        stages=stages, prompts=prompts, listeners=[lambda number, _: heard.append(number)], say=said.append,
        every=every, n=2, seed=0, families=OF_TRAINING, scorers=None,
    )  # fmt: skip


def test_evaluates_on_time_and_once_a_step():
    said, heard = [], []
    evaluating = make_evaluating(2, said, heard)
    before = evaluating.measure(0)
    for number in (1, 2, 3, 4):
        evaluating(make_step(number))
    assert evaluating.measure(4) is not before
    assert heard == [0, 2, 4]
    assert said == ["evaluating 1 held-out prompts × 2"] * 3


def test_every_0_measures_only_when_asked():
    evaluating = make_evaluating(0, [], [])
    evaluating(make_step(20))
    assert evaluating.latest is None


def make_saving(tmp_path, stages, **settings) -> Saving:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=9)
    given = {"position": dict, "failures": None, "inputs": {}, "every": 2, "last": 5}
    return Saving(checkpoints=checkpoints, stages=stages, **(given | settings))


def test_saves_on_time_and_after_the_last_step(tmp_path):
    saving = make_saving(tmp_path, make_stages())
    for number in range(1, 6):
        saving(make_step(number))
    names = sorted(path.name for path in saving.checkpoints.folder.iterdir())
    assert names == ["step_00002", "step_00004", "step_00005"]


def test_an_error_of_a_service_saves_the_last_finished_step(tmp_path):
    saving = make_saving(tmp_path, make_stages(), every=0)
    with pytest.raises(ServiceError), saving.after_service_errors():
        raise ServiceError("reward", "down before the first step")
    assert not saving.checkpoints.folder.exists()
    saving.note(make_step(1))
    saving(make_step(2))
    with pytest.raises(StageError), saving.after_service_errors():
        raise StageError("reward", "not finite, which comes again")
    assert not saving.checkpoints.folder.exists()
    with pytest.raises(ServiceError, match="is down"), saving.after_service_errors():
        raise ServiceError("reward", "is down")
    assert [path.name for path in saving.checkpoints.folder.iterdir()] == ["step_00002"]


class Forgiving:
    """A reward of one's own that counts what it tolerates, gives device memory away and has something to close."""

    def __init__(self):
        self.closed = False

    def score(self, rollouts):
        raise AssertionError("nothing is judged")

    def counters(self):
        return {"judge/timeouts": 2}

    def close(self) -> None:
        self.closed = True


class CountingEncoder:
    """An encoder of one's own that counts."""

    def encode(self, rollouts):
        raise AssertionError("nothing is encoded")

    def counters(self):
        return {"cut_texts": 5}


def test_a_checkpoint_keeps_the_failures_of_every_stage_and_of_earlier_processes(tmp_path):
    stages = make_stages(reward=Forgiving(), embed=CountingEncoder())
    saving = make_saving(
        tmp_path, stages, position=lambda: {"metrics_offset": 7}, failures={"rewards/judge/timeouts": 40},
        inputs={"training rows": "35 rows, 4f0c"},
    )  # fmt: skip
    saving.note(make_step(3))
    saving.save()
    extra = json.loads((saving.checkpoints.folder / "step_00003" / "state.json").read_text())["extra"]
    assert extra == {
        "metrics_offset": 7,
        "failures": {"rewards/judge/timeouts": 42, "embed/cut_texts": 5},
        "inputs": {"training rows": "35 rows, 4f0c"},
    }


def test_a_stage_that_has_something_to_close_is_closed_also_after_an_error():
    reward = Forgiving()
    with contextlib.suppress(RuntimeError), contextlib.ExitStack() as stack:
        close_stages(make_stages(reward=reward), stack)
        raise RuntimeError("the disk is full")
    assert reward.closed
