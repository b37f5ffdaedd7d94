"""Readers of data sets: JSON lines, plain lines, and the Hugging Face hub."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.models.folders import hub_answers

JSON_KINDS = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


def read_lines(path: Path, *, key: str) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1. A byte order mark and CRLF are accepted.

    Raises ConfigError if the file is empty, not UTF-8 or cannot be read; the message ends in "type ``key``".
    """
    return list(_lines(path, key=key))


def _lines(path: Path, *, key: str) -> Iterator[tuple[int, str]]:
    """The lines one at a time: the text of a large file and the parsed rows are never in memory together."""
    number, empty = 0, True
    try:
        with path.expanduser().open("rb") as file:
            for number, line in enumerate(file, 1):
                text = line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").decode("utf-8").strip()
                if text:
                    empty = False
                    yield number, text
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
    if empty:
        raise ConfigError(f"{path}: the file is empty; type {key}")


def read_jsonl(path: Path, *, key: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with one JSON object per line, each with its line number.

    Raises ConfigError with file and line, like ``read_lines``.
    """
    rows = []
    for number, line in _lines(path, key=key):
        try:
            row = DECODER.decode(line)
            if "\\ud" in line.lower():  # a lone surrogate, which no tokenizer takes: encode() raises
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            hint = "; the file looks like one JSON array, write one object per line" if line == "[" else ""
            raise ConfigError(f"{path}, line {number}: not JSON ({error.msg}, column {error.colno}){hint}") from error
        except (ValueError, RecursionError) as error:  # a field twice, a lone surrogate, 5,000 digits, 1,000 brackets
            raise ConfigError(f"{path}, line {number}: cannot be read ({error}); fix the line") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{path}, line {number}: {kind_of(row)}, but an object like {{"prompt": "…"}} is needed')
        rows.append((number, row))
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object as a dict. Raises ValueError for a repeated name, where Python would silently keep the last value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'"{next(name for name in made if names.count(name) > 1)}" occurs twice in one object')
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for error messages: "an object", "a number", "null" …"""
    return "null" if value is None else JSON_KINDS[type(value)]


def read_hub(name: str, subset: str | None, splits: Sequence[str], *, files: str) -> list[list[dict[str, Any]]]:
    """The rows of each split, from a data set on the hub or in the cache of ``datasets``.

    Raises ConfigError within seconds if the data set is in neither; the message names the ``files`` that
    ``task.data_dir`` needs instead.
    """
    import datasets.config  # imported here: it takes a second, and few runs read from the hub
    from datasets.exceptions import DatasetsError

    # Without this check, datasets would retry six times: 23 seconds before it opens the cache.
    offline = datasets.config.HF_HUB_OFFLINE or not hub_answers()
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        loaded = datasets.load_dataset(name, subset)
        return [[dict(row) for row in loaded[split]] for split in splits]
    except (DatasetsError, OSError, ValueError, KeyError) as error:  # no connection, subset or split
        reason = "the hub is out of reach" if offline else f"the hub does not give {name}"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{reason} ({first}); type task.data_dir=FOLDER with {files}") from error
