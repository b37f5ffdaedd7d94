"""The formats of a user's data: the same rows from each, and errors that name the row."""

import datetime
import decimal
import gzip
import json
import logging
from pathlib import Path

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from dqo.errors import ConfigError
from dqo.task.reading.tables import read_rows

ROWS = [{"prompt": "a, b\nc", "answer": "1"}, {"prompt": "ü", "answer": "2"}]
KEY = "task.path=FILE"


def read(path: Path, splits=("train",)) -> list[dict]:
    return [row for _, row in read_rows(path, key=KEY, splits=splits)]


def places(path: Path) -> list[str]:
    return [place.removeprefix(str(path)) for place, _ in read_rows(path, key=KEY)]


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def saved(folder: Path, data: datasets.Dataset | datasets.DatasetDict) -> Path:
    data.save_to_disk(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def quiet():
    datasets.disable_progress_bars()


def test_the_same_rows_from_every_format(tmp_path):
    frame = pandas.DataFrame(ROWS)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv", sep=";", index=False, encoding="utf-8-sig", lineterminator="\r\n")
    frame.to_csv(tmp_path / "b2.csv", lineterminator="\r", index=False)  # as Excel for the Mac
    frame.to_csv(tmp_path / "c.tsv.gz", sep="\t", index=False)
    frame.to_csv(tmp_path / "d.csv")  # with pandas' index
    frame.to_parquet(tmp_path / "e.parquet")
    frame.to_parquet(tmp_path / "f.data")  # known by its content
    frame.to_json(tmp_path / "g.json", orient="records")
    frame.to_json(tmp_path / "h.jsonl.gz", orient="records", lines=True)
    saved(tmp_path / "i", datasets.Dataset.from_pandas(frame).with_format("torch"))
    for path in sorted(tmp_path.iterdir()):
        assert read(path) == ROWS, path.name


def test_rows_are_numbered_as_an_editor_or_a_table_shows_them(tmp_path):
    path = written(tmp_path / "a.csv", '\nprompt,answer\n"a\nb",1\n\nc,2\n')
    assert places(path) == [", line 3", ", line 6"]
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    assert places(tmp_path / "a.parquet") == [", row 1", ", row 2"]


def test_a_csv_file_of_everyday(tmp_path):
    path = written(tmp_path / "a.csv", 'prompt, answer,note\n"say ""hi""",007,\n,NA,x\n')
    assert read(path) == [
        {"prompt": 'say "hi"', "answer": "007", "note": None}, {"prompt": None, "answer": "NA", "note": "x"},
    ]  # fmt: skip
    one_column = written(tmp_path / "b.csv", "prompt\nwhat is 1|2?\n")
    assert read(one_column) == [{"prompt": "what is 1|2?"}]
    long = "x" * 200_000  # longer than Python's limit of a cell
    assert read(written(tmp_path / "c.csv", f"prompt,answer\n{long},1\n")) == [{"prompt": long, "answer": "1"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty; type task.path=FILE"),
        ("a.csv", "prompt,answer\n", "a.csv has no rows; type task.path=FILE"),
        ("a.csv", "prompt,answer\n\n \n", "a.csv has no rows; type task.path=FILE"),
        ("a.csv", "prompt,answer,prompt\na,b,c\n", 'two columns are called "prompt"'),
        ("a.csv", "prompt,answer\na,b\nc, d,e\n", "line 3: 3 values, but the first line names 2 columns; put double"),
        ("a.csv", 'prompt,answer\na,"b\nc,d\n', "line 2: not csv .unexpected end of data.; mend the double quotes"),
        ("a.csv", 'prompt,answer\na,b\n"c"d,e\n', "line 3: not csv"),
        ("a.csv", '{"prompt": "a"}\n', "a.csv holds JSON, not csv; give it a name that ends in .jsonl"),
        ("a.csv", "prompt,answer\na,b\nc,\xe9\n".encode("latin-1"), "a.csv, line 3: not UTF-8"),
        ("a.csv", "prompt,answer\na,b\n".encode("utf-16"), "a.csv, line 1: not UTF-8 .*; convert the file"),
        ("a.csv.gz", gzip.compress(b"prompt,answer\na,b\n", mtime=0)[:-9], "a.csv.gz, line .: cannot be unpacked"),
        ("a.xlsx", b"PK\x03\x04", "a.xlsx is an Excel or zip file; .*csv"),
        ("a.parquet", b"", "a.parquet: cannot be read as Parquet"),
        ("a.parquet", b"PAR1 and then nothing", "a.parquet: cannot be read as Parquet"),
        ("a.parquet", '{"prompt": "a"}\n', "a.parquet: cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_says_where_and_what_to_type(tmp_path, name, content, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(written(tmp_path / name, content))
    assert "\n" not in str(raised.value)


def test_values_of_a_parquet_file_become_those_of_json(tmp_path):
    messages = [[{"role": "user", "content": "a"}], [{"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]]
    frame = pandas.DataFrame(
        {
            "prompt": messages, "score": [float("nan"), 1.5], "day": [datetime.date(2024, 2, 29)] * 2,
            "price": [decimal.Decimal("1.50"), None], "kind": pandas.Categorical(["x", "y"]), "image": [b"\x00"] * 2,
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row["prompt"] for row in rows] == messages  # without the keys that only the other message has
    image = {"image": b"\x00"}
    assert {**rows[0], "prompt": 0} == {
        "prompt": 0, "score": None, "day": "2024-02-29", "price": "1.50", "kind": "x", **image,
    }  # fmt: skip
    assert {**rows[1], "prompt": 0} == {
        "prompt": 0, "score": 1.5, "day": "2024-02-29", "price": None, "kind": "y", **image,
    }  # fmt: skip


def test_a_parquet_file_with_maps_and_one_with_two_columns_of_a_name(tmp_path):
    kind = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    maps = pyarrow.array([[("x", 1), ("y", 2)]], kind)
    pyarrow.parquet.write_table(pyarrow.table({"counts": maps}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [{"counts": {"x": 1, "y": 2}}]
    twice = pyarrow.table([pyarrow.array(["a"])] * 2, names=["prompt", "prompt"])
    pyarrow.parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r'b.parquet: two columns are called "prompt"; rename one'):
        read(tmp_path / "b.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match=r"c.parquet has no rows; type task.path=FILE"):
        read(tmp_path / "c.parquet")


def test_a_saved_folder_with_splits(tmp_path, caplog):
    train, test = (datasets.Dataset.from_list([row]) for row in ROWS)
    folder = saved(tmp_path / "both", datasets.DatasetDict({"train": train, "test": test}))
    with caplog.at_level(logging.INFO):
        assert read(folder) == ROWS[:1]
    assert f"{folder} has the splits train, test: train is read" in caplog.text
    assert read(folder, splits=("test", "validation")) == read(folder / "test") == ROWS[1:]
    only = saved(tmp_path / "only", datasets.DatasetDict({"anything": test}))
    assert read_rows(only, key=KEY) == [(f"{only}/anything, row 1", ROWS[1])]
    odd = saved(tmp_path / "odd", datasets.DatasetDict({"first": train, "second": test}))
    with pytest.raises(ConfigError, match=f"has the splits first, second; type task.path={odd}/first for one of them"):
        read(odd)


def test_folders_that_were_not_saved_or_are_damaged(tmp_path):
    with pytest.raises(
        ConfigError, match=r"is a folder that datasets.save_to_disk has not written; type task.path=FILE"
    ):
        read(tmp_path)
    folder = saved(tmp_path / "a", datasets.Dataset.from_list(ROWS))
    (arrow,) = folder.glob("*.arrow")
    arrow.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"a: datasets cannot read the folder \(.*\); type task.path=FILE"):
        read(folder)
    arrow.unlink()
    with pytest.raises(ConfigError, match="a: datasets cannot read the folder"):
        read(folder)
    (folder / "state.json").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match="a: datasets cannot read the folder"):
        read(folder)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(ConfigError, match=r"File name too long; type task.path=FILE"):
        read(tmp_path / ("x" * 300))
