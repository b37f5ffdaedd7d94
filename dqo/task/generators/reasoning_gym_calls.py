"""Calls of the package reasoning-gym. Runs in the sandbox: imports no torch.

A problem is known by its number alone, since its metadata have tuples and keys that are no text, which JSON would
change. Some generators make all problems of a data set at once, or know no more than ``size`` of them: so the numbers
are cut into chunks, a data set each.
"""

import difflib
from collections.abc import Mapping
from dataclasses import Field, fields
from enum import Enum
from functools import lru_cache
from typing import Any

from reasoning_gym.composite import DatasetSpec
from reasoning_gym.dataset import ProceduralDataset
from reasoning_gym.factory import DATASETS, create_dataset

CHUNK = 500  # problems; the package's own default
REMEMBERED = 2000  # problems: a group's completions are scored one by one
COMPOSITE = "type 'task.settings={datasets: [{name: gcd, weight: 1}, {name: lcm, weight: 2}]}'"
OURS = ("seed", "size")  # settings that number the problems

_generator: tuple[str, Mapping[str, Any]] = ("", {})


def configure(name: str, settings: Mapping[str, Any]) -> str | None:
    """Choose the generator of which ``problem`` and ``score`` speak. Returns what is wrong with the keys, if anything
    is."""
    global _generator
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=3) or sorted(DATASETS)
        return f"task.generator={name}: there is no such generator; type task.generator={'|'.join(near)}"
    known = _fields(name)
    if wrong := next((key for key in settings if key not in known), None):
        first, *more = known or ["NAME"]
        others = f", or {', '.join(more)} instead" if more else ""
        return f"task.settings.{wrong}: {name} has no such setting; type task.settings.{first}=VALUE{others}"
    _generator = name, settings
    _data.cache_clear()
    _entry.cache_clear()
    try:
        _data(0)
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:  # what its checks raise
        typed = ", ".join(f"{key}={value}" for key, value in settings.items()) or "its defaults"
        others = COMPOSITE if name == "composite" else "type other values"
        return f"task.settings: {name} refuses {typed} ({' '.join(str(error).split())}); {others}"
    return None


def problem(number: int) -> dict[str, Any]:
    """The problem of this number: ``question``, ``answer`` (null: any valid one is right) and ``generator``."""
    entry = _entry(number)
    generator = entry["metadata"].get("source_dataset", _generator[0])
    return {"question": entry["question"], "answer": entry["answer"], "generator": generator}


def score(number: int, answer: str) -> float:
    """0.0 to 1.0. Raises whatever the generator raises for an answer that it cannot read."""
    return float(_data(number // CHUNK).score_answer(answer, _entry(number)))


@lru_cache(maxsize=REMEMBERED)
def _entry(number: int) -> dict[str, Any]:
    return _data(number // CHUNK)[number % CHUNK]


@lru_cache(maxsize=4)
def _data(chunk: int) -> ProceduralDataset:
    """The problems of one chunk. Problem i of seed s is problem i - 1 of seed s + 1, so seeds are a chunk apart."""
    name, settings = _generator
    known = _fields(name)
    made = {key: _value(known[key], value) for key, value in settings.items()}
    if name == "composite":
        made["datasets"] = [DatasetSpec(**{"weight": 1.0, "config": {}, **each}) for each in made["datasets"]]
    return create_dataset(name, seed=chunk * CHUNK, size=CHUNK, **made)


def _fields(name: str) -> dict[str, Field[Any]]:
    return {field.name: field for field in fields(DATASETS[name][1]) if field.name not in OURS}


def _value(field: Field[Any], value: Any) -> Any:
    """A value of JSON as the setting's own type."""
    if isinstance(field.type, type) and issubclass(field.type, Enum):
        return field.type(value)
    return tuple(value) if isinstance(field.default, tuple) and isinstance(value, list) else value
