"""``from=``: tables that dqo-eval wrote, and those of other tools."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dqo.errors import ConfigError
from dqo.files.answers_table import Cell, Decoding, write
from dqo.run.read_completions import open_sources
from tests.helpers.judged import make_answers


def write_lines(path: Path, *rows: dict) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_lines_of_another_tool(tmp_path):
    rows = [
        {"policy": "a", "prompt": "City?", "response": " Paris "}, {"policy": "a", "prompt": "Name?", "response": "x"},
        {"policy": "a", "prompt": "City?", "response": "Lima"}, {"policy": "b", "prompt": "City?", "response": "Rome"},
    ]  # fmt: skip
    (source,) = open_sources([write_lines(tmp_path / "x.jsonl", *rows)])
    groups = {(cell.policy, answers.prompt.content): answers for cell, answers in source.groups()}
    assert list(groups) == [("a", "City?"), ("a", "Name?"), ("b", "City?")]
    city = groups["a", "City?"]
    assert (city.texts, city.keys) == ((" Paris ", "Lima"), ("Paris", "Lima"))
    assert (city.correct, city.rewards, city.finished, city.lengths) == (None,) * 4
    assert groups["b", "City?"].prompt.position == city.prompt.position != groups["a", "Name?"].prompt.position
    assert source.counts() == {2: 1, 1: 2}


def test_sources_of_one_name_are_told_apart_by_their_paths(tmp_path):
    row = {"prompt": "City?", "completion": "Rome"}
    paths = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        paths.append(write_lines(tmp_path / folder / ("x.jsonl" if folder < "c" else "y.jsonl"), row))
    assert [source.name for source in open_sources(paths)] == [paths[0], paths[1], "y"]


def test_csv_has_text_alone(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("position,completion,correct,reward,temperature,length\n3,Paris,True,1.0,0.7,2\n3,,false,,0.7,1\n")
    (source,) = open_sources([str(path)])
    ((cell, answers),) = source.groups()
    assert cell == Cell(policy="mine", decoding=Decoding(temperature=0.7))
    assert (answers.prompt.position, answers.texts, answers.correct, answers.lengths) == (
        3, ("Paris", ""), (True, False), (2, 1),
    )  # fmt: skip
    assert answers.rewards is not None and answers.rewards[0] == 1.0 and math.isnan(answers.rewards[1])


def test_completions_of_a_training_step(tmp_path):
    table = {"position": [7, 7], "prompt": ["City?"] * 2, "completion": ["Rome", "x"], "reward": [1.0, 0.0]}
    pq.write_table(pa.table({**table, "valid": [True, False]}), tmp_path / "step_00001.parquet")
    (source,) = open_sources([str(tmp_path)])
    ((cell, answers),) = source.groups()
    assert cell.policy == "step_00001"
    assert answers.valid == (True, False)


def test_own_tables_are_read_in_the_order_of_their_folders(tmp_path):
    for number in (10, 2):
        cell = Cell(policy=f"policy {number}", decoding=Decoding(temperature=1.0))
        folder = tmp_path / "completions" / f"{number}_policy"
        folder.mkdir(parents=True)
        groups = [make_answers(["Paris", "Lima"], correct=[True, True], position=p) for p in range(3)]
        write(folder / "part_000_00000.parquet", cell, groups, {"n": 2, "path": f"path {number}", "task": "cities"})
    (source,) = open_sources([str(tmp_path)])
    assert [cell.policy for cell, _ in source.groups()] == ["policy 2"] * 3 + ["policy 10"] * 3
    assert [about["path"] for about in source.abouts.values()] == ["path 2", "path 10"]
    assert source.counts() == {2: 6}


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jsonl", '{"prompt": "a", "answer": "b"}', "has the columns prompt, answer; needed are prompt"),
        ("x.jsonl", '{"completion": "b"}', "needed are prompt (or position) and completion"),
        ("x.jsonl", '{"prompt": "a", "completion": 3}', "line 1: the completion is 3, and text is needed"),
        ("x.jsonl", '{"prompt": "a", "completion": "b", "reward": "high"}', "line 1: 'high' is no number"),
        ("x.jsonl", '{"prompt": "a", "completion": "b", "correct": "maybe"}', "'maybe' is neither true nor false"),
        ("x.parquet", "PAR1 not", "cannot be read as Parquet"),
        ("x.jsonl", "", "the file is empty"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError) as refusal:
        open_sources([str(tmp_path / name)])
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_folders_without_tables_or_with_two_kinds_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file or folder; type from=FILE"):
        open_sources([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="has no parquet, jsonl or csv file"):
        open_sources([str(tmp_path)])
    write_lines(tmp_path / "x.jsonl", {"prompt": "a", "completion": "b"})
    cell = Cell(policy="p", decoding=Decoding())
    write(tmp_path / "own.parquet", cell, [make_answers(["a"], correct=[True])], {"n": 1})
    with pytest.raises(ConfigError, match=r"dqo-eval did not write x\.jsonl, but others there"):
        open_sources([str(tmp_path)])


def test_completions_of_a_run_that_has_not_ended_are_refused(tmp_path):
    cell = Cell(policy="p", decoding=Decoding())
    place = tmp_path / "run" / "completions" / "0_p"
    place.mkdir(parents=True)
    write(place / "part_000_00000.parquet", cell, [make_answers(["a"], correct=[True])], {"n": 1})
    (place / "journal_000.jsonl").touch()
    for path in (tmp_path / "run", place):
        with pytest.raises(ConfigError, match=rf"has not ended; type dqo-eval resume={tmp_path}/run$"):
            open_sources([str(path)])


def test_tables_without_rows_are_refused(tmp_path):
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match="has no rows"):
        open_sources([str(tmp_path / "other.parquet")])
    write(tmp_path / "own.parquet", Cell(policy="p", decoding=Decoding()), [], {"n": 1})
    with pytest.raises(ConfigError, match="there are no rows; type from=FILE"):
        open_sources([str(tmp_path / "own.parquet")])
