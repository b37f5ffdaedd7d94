"""Prompts of a data set on the hub; a folder with the layout of one takes the hub's place."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from dqo.config import conf_dir
from dqo.errors import ConfigError
from dqo.task.hf_dataset import HfDataset
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering
from tests.task.own_files import CHOICE, COLUMNS, LINES

PLACE = {"name": None, "config": None, "revision": None, "split": "train", "eval_split": None}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def data_set(tmp_path) -> str:
    """A data set with the splits train and test, as a repository has them."""
    folder = tmp_path / "org_name"
    folder.mkdir()
    for split, lines in (("train", LINES), ("test", [{"prompt": "other", "answer": 1, "topic": "x"}] * 2)):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return str(folder)


def task(name: str | None, **keys) -> HfDataset:
    fields = Fields(**{key: keys.pop(key, value) for key, value in COLUMNS.items()})
    choice = Choice(**{key: keys.pop(key, value) for key, value in CHOICE.items()})
    given = PLACE | {"name": name, **keys}
    tokenizer = word_tokenizer(["question"])
    return HfDataset(tokenizer, 64, fields=fields, choice=choice, **with_rendering(given, max_completion_length=8))


@pytest.mark.parametrize("streaming", [False, True])
def test_the_rows_of_a_split(data_set, streaming):
    subject = task(data_set, streaming=streaming, answer_column="answer")
    prompts = [*subject.draw(0, 8)[0], *subject.held_out()]
    assert {prompt.content: prompt.columns for prompt in prompts} == {
        line["prompt"]: {"answer": str(line["answer"]), "topic": "sums"} for line in LINES
    }
    assert {row.source.removeprefix(data_set) for row in subject._training} < {f" train, row {n}" for n in range(1, 11)}


def test_the_evaluation_has_a_split_of_its_own_and_training_a_part_of_one(data_set):
    subject = task(data_set, split="train[:5]", eval_split="test", held_out=1)
    assert [prompt.content for prompt in subject.held_out()] == ["other"]
    assert {str(prompt.content) for prompt in subject.draw(0, 5)[0]} == {line["prompt"] for line in LINES[:5]}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": None}, r"^task=hf_dataset needs a data set of the hub; type task.name=ORG/NAME$"),
        ({"split": "tran"}, r"^task.name=\S+: .*tran.*; type task.name=ORG/NAME, task.config=NAME and task.split=tran"),
        ({"config": "main"}, r"^task.name=\S+: .*main.*task.config=main"),
        ({"name": "org/no_such_data"}, r"^task.name=org/no_such_data: the hub is out of reach .*task=jsonl task.path="),
        ({"prompt_column": "question"}, r'train, row 1: there is no field "question", only prompt, answer, topic'),
        ({"held_out": 10}, r"has 10 different prompts .*; type task.held_out=1, or task.eval_split=NAME$"),
    ],
)
def test_what_is_not_there(data_set, monkeypatch, keys, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=message) as raised:
        task(**{"name": data_set, **keys})
    assert "\n" not in str(raised.value)


def test_a_data_set_with_a_loading_script_says_where_its_tables_are(tmp_path):
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("raise SystemExit", "utf-8")
    with pytest.raises(ConfigError, match=r"type task.revision=refs/convert/parquet task.config=NAME"):
        task(str(tmp_path / "scripted"))


def test_check_without_answers_names_the_task(data_set):
    subject = task(data_set)
    with pytest.raises(ConfigError, match=r"^task=hf_dataset has no reward of its own; type reward=python"):
        subject.check(subject.held_out()[0], "7", True)


def test_the_configuration_has_the_keys_of_task_jsonl():
    """Two files with the same keys must not drift apart."""
    files = (Path(conf_dir(), "task", f"{name}.yaml") for name in ("jsonl", "hf_dataset"))
    jsonl, ours = (cast(Any, OmegaConf.to_container(OmegaConf.load(file)))["task"] for file in files)
    assert set(ours) - set(jsonl) == set(PLACE)
    assert set(jsonl) - set(ours) == {"path", "eval_path", "format"}
    assert all(ours[key] == jsonl[key] for key in set(jsonl) & set(ours) - {"_target_"})
