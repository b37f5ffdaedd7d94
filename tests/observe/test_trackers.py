import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dqo.observe.trackers import TensorBoard, Wandb
from tests.helpers.steps import make_evaluation, make_step, send


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_gets_all_defined_metrics(tmp_path):
    board = TensorBoard(folder=tmp_path)
    board.evaluated(0, make_evaluation(0.25))
    send(board, make_step(1))
    board.close()
    events = read(tmp_path)
    assert [(point.step, point.value) for point in events.Scalars("correct")] == [(1, 0.5)]
    assert [(point.step, point.value) for point in events.Scalars("eval/pass@1")] == [(0, 0.25)]
    assert "kl" not in events.Tags()["scalars"]


def test_tensorboard_drops_the_points_that_a_resumed_run_writes_again(tmp_path):
    board = TensorBoard(folder=tmp_path)
    for number in (1, 2, 3):
        send(board, make_step(number))
    board.close()
    board = TensorBoard(folder=tmp_path, resumed_at=1)
    send(board, make_step(2))
    board.close()
    assert [point.step for point in read(tmp_path).Scalars("correct")] == [1, 2]


def test_tensorboard_drops_all_points_of_a_run_resumed_from_the_start(tmp_path):
    for resumed_at in (None, 0):
        board = TensorBoard(folder=tmp_path, resumed_at=resumed_at)
        board.evaluated(0, make_evaluation(0.25))
        board.close()
    assert [point.step for point in read(tmp_path).Scalars("eval/pass@1")] == [0]


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.slow
def test_wandb_runs_offline_without_a_key(tmp_path, no_key):
    tracker = Wandb(folder=tmp_path, project="dqo", name="run", config={"k": 8})
    send(tracker, make_step(1))
    tracker.evaluated(1, make_evaluation())
    tracker.close()
    assert tracker.failures == 0
    resumed = Wandb(folder=tmp_path, project="dqo", name="run", config={"k": 8})
    resumed.close()
    assert resumed.id and resumed.id == tracker.id
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_a_failure_of_wandb_does_not_end_the_run_and_is_logged_once(tmp_path, no_key, caplog):
    with caplog.at_level(logging.WARNING, "dqo"):
        tracker = Wandb(folder=tmp_path, project="no/such/project", name="run", config={})
        send(tracker, make_step(1))
        tracker.close()
    assert tracker.failures == 2  # the start in wandb's own mode, and the start offline
    assert caplog.text.count("; the run goes on") == 1
