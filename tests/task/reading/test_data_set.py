"""Public data sets: the layouts of their folders, prompts that occur twice, and which rows are held out."""

import json

import datasets
import pytest

from dqo.errors import ConfigError
from dqo.task.reading.data_set import DataSet, held_out_rows, one_per_prompt, split_by_hash, texts_of
from dqo.task.reading.row import Row

DATA = DataSet(hub="someone/something", files={"train": "train.jsonl", "validation": "dev.jsonl"})
TRAIN, DEV = [{"a": "1"}, {"a": "2"}], [{"a": "3"}]


def row(text: str, *references: str) -> Row:
    return Row(content=text, source=text, columns={"references": list(references)}, demonstrations=references)


def fields(data_dir):
    return [[dict(fields) for _, fields in rows] for rows in DATA.read(["train", "validation"], str(data_dir))]


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


def test_upstreams_files(tmp_path):
    lines(tmp_path / "train.jsonl", TRAIN)
    lines(tmp_path / "dev.jsonl", DEV)
    assert fields(tmp_path) == [TRAIN, DEV]


@pytest.mark.parametrize("name", ["{}-0000{}-of-00002.parquet", "data/{}-0000{}-of-00002.parquet", "{}/000{}.parquet"])
def test_parquet_files_of_a_repository(tmp_path, name):
    for split, rows in (("train", TRAIN), ("validation", DEV)):
        for number, each in enumerate(rows):
            path = tmp_path / name.format(split, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_list([each]).to_parquet(path)
    assert fields(tmp_path) == [TRAIN, DEV]


def test_a_folder_saved_by_datasets(tmp_path):
    splits = {"train": datasets.Dataset.from_list(TRAIN), "validation": datasets.Dataset.from_list(DEV)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    assert fields(tmp_path) == [TRAIN, DEV]


def test_a_missing_split(tmp_path):
    lines(tmp_path / "train.jsonl", TRAIN)
    with pytest.raises(ConfigError, match=r"dev.jsonl: No such .*; type task.data_dir=FOLDER with train.jsonl and dev"):
        fields(tmp_path)


def test_the_hub_out_of_reach():
    with pytest.raises(ConfigError, match=r"the hub is out of reach .* type task.data_dir=FOLDER with train.jsonl and"):
        DATA.read(["train", "validation"], None)


@pytest.mark.parametrize("value", [None, 3, ["x"], " "])
def test_a_field_that_is_no_text(value):
    with pytest.raises(ConfigError, match=r'line 1: "a" and "b" are needed as text; the row has a, b'):
        texts_of({"a": "x", "b": value}, ["a", "b"], "line 1")


def test_rows_with_the_same_prompt_become_one():
    first, other = one_per_prompt([row("p", "x", "y"), row("q", "z"), row("p", "y", "w")])
    assert first.columns["references"] == ["x", "y", "w"]
    assert first.demonstrations == ("x", "y", "w")
    assert other.source == "q"


def test_held_out_prompts_are_not_trained_on(caplog):
    evaluation = [row(text) for text in "aabcd"]
    chosen = held_out_rows(evaluation, [row("c"), row("e")], 3)
    assert {row.content for row in chosen} == {"a", "b", "d"}
    assert "1 of 4 held-out prompts are training prompts too and are left out" in caplog.text
    with pytest.raises(ConfigError, match=r"task.held_out=4: 1 to 3 can be; type task.held_out=3"):
        held_out_rows(evaluation, [row("c")], 4)


def test_a_split_by_hash_stays_when_rows_are_added():
    rows = [row(str(number)) for number in range(100)]
    training, held_out = split_by_hash(rows, 10)
    assert {each.content for each in training} | {each.content for each in held_out} == {r.content for r in rows}
    assert (len(training), len(held_out)) == (90, 10)
    assert split_by_hash(rows[::-1], 10)[1] == held_out
    more = split_by_hash([*rows, row("100")], 10)[1]
    assert len({each.content for each in more} & {each.content for each in held_out}) >= 9


@pytest.mark.parametrize(("count", "advice"), [(1, "add rows"), (3, "type task.held_out=2")])
def test_too_few_rows_to_split(count, advice):
    with pytest.raises(ConfigError, match=rf"task.held_out={count}: of {count} prompts .*; {advice}"):
        split_by_hash([row(str(number)) for number in range(count)], count)
