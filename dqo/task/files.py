"""Reading data sets: JSON lines, plain lines, and the Hugging Face hub."""

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError

JSON_KINDS = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a truth value",
    int: "a number",
    float: "a number",
}


def read_lines(path: Path, *, key: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1; a byte order mark and CRLF are tolerated.

    Raises ConfigError for a file that is empty, not UTF-8 or cannot be read; ``key`` is what the user types to give it.
    """
    try:
        raw = path.expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
    lines = []
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file") from error
        if text:
            lines.append((number, text))
    if not lines:
        raise ConfigError(f"{path}: the file is empty; type {key}")
    return lines


def read_jsonl(path: Path, *, key: str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of one JSON object a line, with their line numbers.

    Raises ConfigError with file and line, like ``read_lines``.
    """
    rows = []
    for number, line in read_lines(path, key=key):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            hint = "; the file looks like one JSON array, write one object a line" if line == "[" else ""
            raise ConfigError(f"{path}, line {number}: not JSON ({error.msg}, column {error.colno}){hint}") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{path}, line {number}: {kind_of(row)}, but an object like {{"prompt": "…"}} is needed')
        rows.append((number, row))
    return rows


def kind_of(value: Any) -> str:
    """What a JSON value is, for error messages."""
    return "null" if value is None else JSON_KINDS[type(value)]


def read_hub(name: str, subset: str | None, splits: Sequence[str], *, files: str) -> list[list[dict[str, Any]]]:
    """The rows of some splits of a data set on the hub, or in the cache of ``datasets``.

    Raises ConfigError within seconds if neither is in reach, naming the ``files`` that ``task.data_dir`` would need.
    """
    import datasets.config  # takes a second, which only runs that read from the hub pay
    from datasets.exceptions import DatasetsError

    # Without this look, datasets would try six times: 23 seconds before the cache is opened.
    offline = datasets.config.HF_HUB_OFFLINE or not _reachable(datasets.config.HF_ENDPOINT)
    datasets.config.HF_HUB_OFFLINE = offline
    try:
        loaded = datasets.load_dataset(name, subset)
        return [[dict(row) for row in loaded[split]] for split in splits]
    except (DatasetsError, OSError, ValueError, KeyError) as error:  # ConnectionError; no such subset; no such split
        reason = "the hub is out of reach" if offline else f"the hub does not give {name}"
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{reason} ({first}); type task.data_dir=FOLDER with {files}") from error


def _reachable(endpoint: str) -> bool:
    """Whether anything answers there, be it with an error."""
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
