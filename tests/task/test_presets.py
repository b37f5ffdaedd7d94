"""conf/task: each file lists exactly its constructor's keys, and writes nothing but top-level keys and task.*."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from dqo.task.reading.rows import RowTask

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted((CONF / "task").glob("*.yaml"))


def test_all_tasks_are_here():
    assert [file.stem for file in FILES] == ["cities", "commongen", "concepts", "gsm8k", "jsonl"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_keys(file):
    config = yaml.safe_load(file.read_text("utf-8"))
    module, _, name = config["task"].pop("_target_").rpartition(".")
    constructor = getattr(import_module(module), name)
    assert issubclass(constructor, RowTask)
    parameters = inspect.signature(constructor).parameters.values()
    keys = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert set(config["task"]) == {p.name for p in keys}
    assert all(p.default is p.empty and p.annotation is not p.empty for p in keys)
    assert (config["task"]["seed"], config["task"]["max_completion_length"]) == ("${seed}", "${max_completion_length}")
    top = yaml.safe_load((CONF / "train.yaml").read_text("utf-8"))
    assert set(config) - {"task", "defaults"} <= set(top)
    assert file.read_text("utf-8").startswith("# @package _global_\n")
