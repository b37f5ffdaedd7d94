"""A file, a folder, a pattern or a list: which files are read, and in which order."""

import logging

import pytest

from dqo.errors import ConfigError
from dqo.task.reading.places import files_of


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Makes files and says which are read, as typed from their folder."""
    monkeypatch.chdir(tmp_path)

    def make(typed, *names, splits=("train",)):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return [str(path) for path in files_of(typed, key="task.path=FILE", splits=splits)]

    return make


def test_a_pattern_and_a_folder_give_their_files_by_name(found):
    assert found("data/*.jsonl", "data/b.jsonl", "data/a.jsonl", "data/a.csv") == ["data/a.jsonl", "data/b.jsonl"]
    assert found("data") == ["data/a.csv", "data/a.jsonl", "data/b.jsonl"]
    assert found("**/a.*") == ["data/a.csv", "data/a.jsonl"]


def test_a_list_keeps_its_order_and_names_each_file_once(found):
    assert found(["b.jsonl", "*.jsonl", "c.csv.gz"], "a.jsonl", "b.jsonl", "c.csv.gz") == [
        "b.jsonl",
        "a.jsonl",
        "c.csv.gz",
    ]


def test_what_is_no_data_in_a_folder_is_not_read(found):
    names = (".hidden.jsonl", "_temporary/x.jsonl", "README.md", "dataset_infos.json", "deep/er/a.parquet", "b.tsv.zst")
    assert found("data", *(f"data/{name}" for name in names)) == ["data/b.tsv.zst", "data/deep/er/a.parquet"]


def test_of_a_folder_with_several_splits_the_one_that_is_asked_for_is_read(found, caplog):
    names = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "dev.parquet", "test-0.parquet")
    with caplog.at_level(logging.INFO):
        read = found("data", *(f"data/{name}" for name in names))
    assert read == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    assert "data: 2 of 4 files are read, those of train" in caplog.text
    assert found("data", splits=("test", "validation")) == ["data/test-0.parquet"]
    assert found("data/*e*", splits=("validation",)) == ["data/dev.parquet"]
    assert found("other", "other/validation/0.jsonl", "other/training/1.jsonl") == ["other/training/1.jsonl"]


def test_names_of_one_split_and_of_none_are_all_read(found):
    assert found("data", "data/test_a.jsonl", "data/test_b.jsonl") == ["data/test_a.jsonl", "data/test_b.jsonl"]
    assert found("latest", "latest/contest.jsonl", "latest/retrain.jsonl") == [
        "latest/contest.jsonl",
        "latest/retrain.jsonl",
    ]


@pytest.mark.parametrize(
    ("typed", "names", "message"),
    [
        ("no*.jsonl", (), r"^no\*.jsonl: no file has such a name; type task.path=FILE"),
        ("empty", ("empty/a.txt",), "^empty is a folder that datasets.save_to_disk has not written, and no file in it"),
        ("data", ("data/test.csv", "data/b.csv"), "^data has files of no split, test, and none of train; type"),
    ],
)
def test_what_cannot_be_read(found, typed, names, message):
    with pytest.raises(ConfigError, match=message):
        found(typed, *names)


def test_a_file_whose_name_looks_like_a_pattern(found):
    assert found("a[1].jsonl", "a[1].jsonl") == ["a[1].jsonl"]
