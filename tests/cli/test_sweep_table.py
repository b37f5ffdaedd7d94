import json
from typing import Any

from dqo.cli.sweep_table import Record, Result, print_table


def record(folder, number: int, result: Any = Result.DONE, **after) -> Record:
    """A job; with ``after`` it has left a summary."""
    path = folder / str(number)
    path.mkdir()
    if after:
        names = dict.fromkeys(after, 0.125)
        (path / "summary.json").write_text(json.dumps({"before": names, "after": after}))
    return Record(number=number, swept=f"seed={number}", folder=str(path), result=result, cause="", retry="")


def table(capsys, records, rest=()) -> tuple[bool, list[str]]:
    has_numbers = print_table("the sweep", records, rest)
    return has_numbers, capsys.readouterr().err.splitlines()


def test_shows_quality_and_diversity_that_all_finished_jobs_define(tmp_path, capsys):
    numbers = {"reward": 0.5, "cosine_distance": 0.25, "vendi": 3.0}
    first = record(tmp_path, 0, **numbers, **{"pass@1": 0.75, "distinct_correct": 4.5})
    _, lines = table(capsys, [first])
    assert lines[1] == f"{'':19}pass@1         distinct_correct"
    assert lines[2] == f"  0  seed=0  done  0.125 → 0.750  0.125 → 4.500     {tmp_path}/0"
    other = record(tmp_path, 1, **numbers, **{"pass@1": None, "distinct_correct": None})
    _, lines = table(capsys, [first, other])
    assert lines[1].split() == ["reward", "cosine_distance"]
    assert lines[3].split()[3:] == ["0.125", "→", "0.500", "0.125", "→", "0.250", f"{tmp_path}/1"]


def test_jobs_without_numbers_leave_their_cells_empty(tmp_path, capsys):
    done = record(tmp_path, 0, reward=1.0)
    failed = record(tmp_path, 1, Result.FAILED, reward=0.5)
    has_numbers, lines = table(capsys, [done, failed, record(tmp_path, 2)], ["seed=3"])
    assert has_numbers and lines[0] == "the sweep: 2 done, 1 failed, 1 not started"
    assert lines[2].split()[3:] == ["0.125", "→", "1.000", "–", "→", "–", f"{tmp_path}/0"]
    assert lines[3].split() == ["1", "seed=1", "failed", f"{tmp_path}/1"], "what it left may be of an earlier start"
    assert lines[4].split() == ["2", "seed=2", "done", f"{tmp_path}/2"]
    assert lines[5].split() == ["seed=3", "not", "started"]


def test_a_sweep_without_summaries_has_no_columns_for_them(tmp_path, capsys):
    has_numbers, lines = table(capsys, [record(tmp_path, 0)])
    assert not has_numbers and lines == ["the sweep: 1 done", f"  0  seed=0  done  {tmp_path}/0"]
