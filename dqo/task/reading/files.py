"""Reading data sets: JSON lines, plain lines, and the Hugging Face hub."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
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
    return list(_lines(path, key=key))


def _lines(path: Path, *, key: str) -> Iterator[tuple[int, str]]:
    """One at a time: a large file is never in memory beside what is made of it."""
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
    """The objects of a file of one JSON object a line, with their line numbers.

    Raises ConfigError with file and line, like ``read_lines``.
    """
    rows = []
    for number, line in _lines(path, key=key):
        try:
            row = DECODER.decode(line)
            if "\\ud" in line.lower():  # half of a pair is no character, and no tokenizer takes it
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            hint = "; the file looks like one JSON array, write one object a line" if line == "[" else ""
            raise ConfigError(f"{path}, line {number}: not JSON ({error.msg}, column {error.colno}){hint}") from error
        except (ValueError, RecursionError) as error:  # a field twice, half a character, 5,000 digits, 1,000 brackets
            raise ConfigError(f"{path}, line {number}: cannot be read ({error}); mend the line") from error
        if not isinstance(row, dict):
            raise ConfigError(f'{path}, line {number}: {kind_of(row)}, but an object like {{"prompt": "…"}} is needed')
        rows.append((number, row))
    return rows


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON says nothing of a name that stands twice; Python would keep the last without a word."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'"{next(name for name in made if names.count(name) > 1)}" stands twice in one object')
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)


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
