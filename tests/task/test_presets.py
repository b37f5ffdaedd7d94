"""conf/task: each file sets only top-level keys and ``task.*``."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

from dqo.task.reading.rows import RowTask

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted((CONF / "task").glob("*.yaml"))
OF_JSONL = ("csv", "json", "parquet")  # jsonl.yaml with one key set


def test_tasks_that_are_shipped():
    assert [file.stem for file in FILES] == [
        "cities", "cnn_dailymail", "commongen", "concepts", "countdown", "csv", "dolly", "gsm8k", "hf_dataset", "json",
        "jsonl", "math", "modebench", "noveltybench", "parquet", "reasoning_gym", "scitldr", "stories",
    ]  # fmt: skip


@pytest.mark.parametrize("name", OF_JSONL)
def test_formats_of_jsonl(name):
    config = yaml.safe_load((CONF / "task" / f"{name}.yaml").read_text("utf-8"))
    assert config == {"defaults": ["jsonl", "_self_"], "task": {"format": name}}


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in OF_JSONL], ids=lambda file: file.stem)
def test_what_a_task_sets(file):
    config = yaml.safe_load(file.read_text("utf-8"))
    module, _, name = config["task"].pop("_target_").rpartition(".")
    constructor = getattr(import_module(module), name)
    assert issubclass(constructor, RowTask)
    assert (config["task"]["seed"], config["task"]["max_completion_length"]) == ("${seed}", "${max_completion_length}")
    top = yaml.safe_load((CONF / "train.yaml").read_text("utf-8"))
    assert set(config) - {"task", "defaults"} <= set(top)
    assert file.read_text("utf-8").startswith("# @package _global_\n")
