import math

import pyarrow.parquet as pq
import pytest

from dqo.observe.completions import Completions
from tests.helpers.steps import HOSTILE, make_step, send


def test_every_column_is_read_back(tmp_path):
    send(Completions(folder=tmp_path / "completions"), make_step(12))
    assert [path.name for path in (tmp_path / "completions").iterdir()] == ["step_00012.parquet"]
    rows = pq.read_table(tmp_path / "completions" / "step_00012.parquet").to_pylist()
    assert rows[3].pop("credit") == 0.0
    assert rows[3] == {
        "step": 12, "position": 1, "i": 1, "prompt": "City 1?", "completion": HOSTILE, "reward": 0.0,
        "rewards/check": 0.0, "rewards/style": 0.0, "correct": False, "valid": False, "advantage": 0.0,
        "finished": False, "length": 4,
    }  # fmt: skip
    assert [(row["position"], row["i"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["advantage"] for row in rows] == [1.0, -0.5, 0.25, 0.0]
    assert rows[2]["credit"] == pytest.approx(0.6)
    assert math.isnan(rows[1]["rewards/style"])


def test_all_steps_are_read_as_one_table(tmp_path):
    write = Completions(folder=tmp_path)
    for number in (1, 2):
        send(write, make_step(number))
    assert pq.read_table(tmp_path)["step"].to_pylist() == [1] * 4 + [2] * 4


def test_a_resumed_run_removes_later_steps_and_half_written_files(tmp_path):
    write = Completions(folder=tmp_path)
    for number in (1, 2, 3):
        send(write, make_step(number))
    for name in (".new-step_00004.parquet", "step_mine.parquet"):
        (tmp_path / name).touch()
    write.forget_after(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step_00001.parquet", "step_00002.parquet", "step_mine.parquet",
    ]  # fmt: skip
