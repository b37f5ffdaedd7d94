"""Readers of lines and JSON; the hub out of reach."""

import gzip
import json

import pytest

from dqo.errors import ConfigError
from dqo.task import commongen, gsm8k
from dqo.task.reading.arrow import hub_tables, table_rows
from dqo.task.reading.files import read_json, read_lines
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering


def test_byte_order_mark_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_bytes('\ufeff{"a": "é\u2028"}\r\n\r\n{"a": 2}'.encode())
    assert [*read_json(path, key="x")] == [(f"{path}, line 1", {"a": "é\u2028"}), (f"{path}, line 3", {"a": 2})]


@pytest.mark.parametrize("name", ["my.json", "my.jsonl"])
def test_one_array_of_objects(tmp_path, name):
    path = tmp_path / name
    path.write_bytes('\ufeff\n [ {"a": "é,]"},\n{"a": [1, {"b": 2}]} ]\n'.encode())
    assert [*read_json(path, key="x")] == [(f"{path}, row 1", {"a": "é,]"}), (f"{path}, row 2", {"a": [1, {"b": 2}]})]


def test_a_file_packed_by_gzip(tmp_path):
    path = tmp_path / "my.jsonl"  # whatever its name
    path.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert [*read_json(path, key="x")] == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 3", {"a": 2})]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ConfigError, match=r"my.jsonl, line \d: cannot be unpacked \(.*; type task.path=FILE"):
        [*read_json(path, key="task.path=FILE")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; type task.path=FILE"),
        (b"\n \n", "the file is empty"),
        (b'{"a": 1}\n{"a": \n', r"line 2: not JSON \(Expecting value, column"),
        (b"{'a': 1}\n", r"line 1: not JSON"),
        (b'{\n"a": 1}\n', "line 1: not JSON .*one object per line is needed, or one array of objects"),
        (b'{"a": 1} {"a": 2}\n', "line 1: not JSON .*one object per line is needed"),
        (b"a,b\n1,2\n", "line 1: not JSON .*does the file hold csv"),
        (b"[]", "the array is empty; type task.path=FILE"),
        (b'[{"a": 1},\n3]\n', "row 2: a number, but an object"),
        (b'[{"a": 1},\n{"a": 2, "a": 3}]', 'row 2: cannot be read \\("a" occurs twice'),
        (b'[{"a": 1}, {"a": "\\ud83d"}]', "row 2: cannot be read .*surrogates"),
        (b'[{"a": 1},\n{"a": 2}', r"line 2: not JSON \(Expecting ',' or ']'"),
        (b'[{"a": 1},\n]', "line 2: not JSON"),
        (b'[{"a": 1}]\n[{"a": 2}]', r"line 2: not JSON \(Extra data"),
        (b'{"a": 1}\n[1]\n', "line 2: an array, but an object"),
        (b'{"a": 1}\n"text"\n', "line 2: text, but an object"),
        (b"null\n", "line 1: null, but an object"),
        (b"3\n", "line 1: a number, but an object"),
        (b'{"a": "\xe9"}\n', r"line 1: not UTF-8 \("),
        ('{"a": 1}\n'.encode("utf-16"), "line 1: not UTF-8"),
        (b"PK\x03\x04", "is an Excel or zip file; JSON lines, one JSON array, csv or parquet is needed"),
    ],
)
def test_errors_name_the_line(tmp_path, content, message):
    path = tmp_path / "my.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"my.jsonl(, |: | ){message}"):
        [*read_json(path, key="task.path=FILE")]


def test_missing_file_and_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match=r"my.jsonl: No such file or directory; type task.path=FILE"):
        read_lines(tmp_path / "my.jsonl", key="task.path=FILE")
    with pytest.raises(ConfigError, match=r": Is a directory; type task.path=FILE"):
        read_lines(tmp_path, key="task.path=FILE")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The hub cannot be reached, and the cache of ``datasets`` is empty."""
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("task", "files"),
    [
        (gsm8k.Gsm8k, "train.jsonl and test.jsonl"),
        (commongen.CommonGen, r"commongen.\{train,dev\}.\{src_alpha,tgt\}.txt"),
    ],
)
def test_hub_out_of_reach(offline, task, files):
    keys = with_rendering({"data_dir": None, "held_out": 2}, max_completion_length=8)
    with pytest.raises(ConfigError, match=rf"the hub is out of reach \(.*\); type task.data_dir=FOLDER with {files}"):
        task(word_tokenizer(["a"]), 64, **keys)


def test_hub_data_set(offline, tmp_path):
    """A local folder replaces the hub: ``datasets`` reads both the same way."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps({"question": split, "answer": "#### 1"}) + "\n", "utf-8")
    train, test = (table_rows(*table) for table in hub_tables(str(folder), None, ["train", "test"], files="x"))
    assert list(train) == [(f"{folder} train, row 1", {"question": "train", "answer": "#### 1"})]
    assert list(test) == [(f"{folder} test, row 1", {"question": "test", "answer": "#### 1"})]
    with pytest.raises(ConfigError, match=r"type task.data_dir=FOLDER with x"):
        hub_tables(str(folder), None, ["dev"], files="x")
