import threading

import pytest

from dqo.metrics import clock
from dqo.metrics.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """Sets what the clock reads."""
    now = [0.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def at(seconds: float) -> None:
        now[0] = float(seconds)

    return at


def test_time_in_which_two_threads_are_in_one_stage_counts_once(at):
    measured = Clock()
    one, other = measured("reward"), measured("reward")
    one.__enter__()  # 0 to 4
    at(3)
    other.__enter__()  # 3 to 7
    at(4)
    one.__exit__(None, None, None)
    at(7)
    other.__exit__(None, None, None)
    at(10)
    with measured("reward"):  # 10 to 11
        at(11)
    assert measured.seconds == {"reward": pytest.approx(8)}


def test_elapsed_is_the_time_in_which_any_stage_was_at_work(at):
    measured = Clock()
    with measured("rollout"):  # 0 to 5, and embed 2 to 3 within
        at(2)
        with measured("embed"):
            at(3)
        at(5)
    at(6)
    with measured("learner"):  # 6 to 8
        at(8)
    assert measured.seconds == {"rollout": 5, "embed": 1, "learner": 2} and measured.elapsed == 7


def test_threads_lose_no_time():
    measured = Clock()

    def visit() -> None:
        for _ in range(200):
            with measured("judge"):
                pass

    threads = [threading.Thread(target=visit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measured._spans["judge"]) == 1600
