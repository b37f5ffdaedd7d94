from dqo.files.checkpoint import Checkpoints
from dqo.run.moments import Evaluating, Saving
from tests.files.test_checkpoint import make_stages
from tests.observe.records import make_step
from tests.test_evaluation import scripted_stages


def make_evaluating(every: int, said: list, heard: list) -> Evaluating:
    stages, prompts = scripted_stages({0: ["Paris", "Lima"]})
    return Evaluating(
        stages=stages, prompts=prompts, listeners=[lambda number, _: heard.append(number)], say=said.append,
        every=every, n=2, seed=0,
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


def test_saves_on_time_and_after_the_last_step(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=9)
    saving = Saving(checkpoints=checkpoints, stages=make_stages(), extra=dict, every=2, last=5)
    for number in range(1, 6):
        saving(make_step(number))
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00002", "step_00004", "step_00005"]
