"""Files of a user's own prompts, and ``task=jsonl`` over them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from dqo.task.jsonl import Jsonl
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}"
LINES = [{"prompt": f"question {n}", "answer": n, "topic": "sums"} for n in range(10)]
Lines = Sequence[Mapping[str, Any]]

COLUMNS = {
    "prompt_column": "prompt", "template": None, "system_prompt": None, "columns": None, "answer_column": None,
    "completion_column": None, "tools_column": None,
}  # fmt: skip
CHOICE = {"held_out": 2, "skip_long": False, "streaming": False}
PLACES = {"path": None, "eval_path": None, "format": None}


def task(
    path: str | list[str] | None, *, context: int = 64, template_of_model: str | None = TEMPLATE, **keys: Any
) -> Jsonl:
    """``task=jsonl`` with these keys."""
    tokenizer = word_tokenizer(["question"])
    tokenizer.chat_template = template_of_model
    groups = {"fields": (Fields, COLUMNS), "choice": (Choice, CHOICE)}
    made = {
        name: kind(**{key: keys.pop(key, value) for key, value in defaults.items()})
        for name, (kind, defaults) in groups.items()
    }
    given = {**PLACES, "path": path, **keys}
    return Jsonl(tokenizer, context, **made, **with_rendering(given, max_completion_length=8))


def write(folder: Path, lines: Lines, name: str = "my.jsonl") -> str:
    """The path of a file of JSON lines."""
    return raw(folder, "".join(f"{json.dumps(line)}\n" for line in lines), name)


def raw(folder: Path, content: str | bytes, name: str = "my.jsonl") -> str:
    """The path of a file with this content."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(folder: Path, lines: Lines, name: str = "my.parquet") -> str:
    """The path of a Parquet file."""
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*lines]), folder / name)
    return str(folder / name)


def saved(folder: Path, lines: Lines, name: str = "saved") -> str:
    """The path of a folder that ``datasets.save_to_disk`` has written."""
    datasets.Dataset.from_list([dict(line) for line in lines]).save_to_disk(folder / name)
    return str(folder / name)
