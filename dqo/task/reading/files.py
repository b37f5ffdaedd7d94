"""Readers of text: plain lines, JSON lines, one JSON array. ``tables`` has the others."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from dqo.errors import ConfigError
from dqo.task.reading.packed import ERRORS, unpacked

JSON_KINDS = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    bytes: "binary data",
}
FOREIGN = {  # the first bytes of files that are not read
    b"PK\x03\x04": "an Excel or zip file",
    b"ARROW1": "an Arrow file",
}
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SPACE = re.compile(r"\s*")


def read_lines(path: Path, *, key: str) -> list[tuple[int, str]]:
    """The lines that are not blank, stripped, each with its number from 1. A byte order mark, CRLF and
    compression (``packed``) are accepted.

    Raises ConfigError if the file is empty, not UTF-8 or cannot be read; the message ends in "type ``key``".
    """
    return list(_filled_lines(path, key=key))


def read_json(path: Path, *, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file that has one JSON object per line, or one JSON array of objects; each with where it stands:
    "my.jsonl, line 3", "my.json, row 3".

    Raises ConfigError with file and line or row, like ``read_lines``.
    """
    lines = _filled_lines(path, key=key)
    first = next(lines)
    if first[1].startswith("["):
        text = "".join(line for _, line in raw_lines(path, key=key))
        yield from _array(path, text, key=key)
        return
    for number, line in chain([first], lines):
        where = f"{path}, line {number}"
        yield where, object_of(line, where, is_first=number == first[0])


def object_of(line: str, where: str, *, is_first: bool = False) -> dict[str, Any]:
    """The object that a stripped line of JSON holds. ``is_first``: whether it is the file's first line, which tells
    another format. Raises ConfigError."""
    try:
        row = DECODER.decode(line)
    except json.JSONDecodeError as error:
        several = line == "{" or error.msg == "Extra data"
        hint = "; one object per line is needed, or one array of objects" if several else ""
        hint = hint or ("; does the file hold csv? name it .csv" if is_first and line[0] != "{" else "")
        raise ConfigError(f"{where}: not JSON ({error.msg}, column {error.colno}){hint}") from error
    except (ValueError, RecursionError) as error:  # a field twice, 5,000 digits, 1,000 brackets
        raise ConfigError(f"{where}: cannot be read ({error}); fix the line") from error
    return _checked_object(row, line, where)


def raw_lines(path: Path, *, key: str) -> Iterator[tuple[int, str]]:
    """All lines with their ends, each with its number from 1; without a byte order mark, unpacked if the file is
    compressed.

    Raises ConfigError, like ``read_lines``.
    """
    number = 0
    try:
        with path.expanduser().open("rb") as file:
            start = file.read(8)
            file.seek(0)
            if kind := next((kind for magic, kind in FOREIGN.items() if start.startswith(magic)), None):
                raise ConfigError(
                    f"{path} is {kind}; JSON lines, one JSON array, csv or parquet is needed, the text files packed by "
                    f"gzip, zstandard, bzip2, xz or not; type {key}"
                )
            for number, line in enumerate(unpacked(file), 1):
                yield number, line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file") from error
    except ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's
            raise ConfigError(f"{path}: {error.strerror or error}; type {key}") from error
        raise ConfigError(f"{path}, line {number + 1}: cannot be unpacked ({error}); type {key}") from error


def _filled_lines(path: Path, *, key: str) -> Iterator[tuple[int, str]]:
    """The lines one at a time: the text of a large file and the parsed rows are never in memory together."""
    empty = True
    for number, line in raw_lines(path, key=key):
        if text := line.strip():
            empty = False
            yield number, text
    if empty:
        raise ConfigError(f"{path}: the file is empty; type {key}")


def _array(path: Path, text: str, *, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a text that is one JSON array."""
    row = 0
    try:
        for row, (value, source) in enumerate(_elements(text), 1):
            yield f"{path}, row {row}", _checked_object(value, source, f"{path}, row {row}")
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {error.lineno}: not JSON ({error.msg}, column {error.colno})") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}, row {row + 1}: cannot be read ({error}); fix the row") from error
    if not row:
        raise ConfigError(f"{path}: the array is empty; type {key}")


def _elements(text: str) -> Iterator[tuple[Any, str]]:
    """The values of a JSON array, each with its own text. Raises what ``json`` raises."""
    place = _after_space(text, text.index("[") + 1)
    ended = text[place : place + 1] == "]"
    while not ended:
        value, end = DECODER.raw_decode(text, place)
        yield value, text[place:end]
        place = _after_space(text, end)
        ended = text[place : place + 1] == "]"
        if not ended and text[place : place + 1] != ",":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
        place = place if ended else _after_space(text, place + 1)
    if (rest := _after_space(text, place + 1)) < len(text):
        raise json.JSONDecodeError("Extra data after the array", text, rest)


def _after_space(text: str, place: int) -> int:
    found = SPACE.match(text, place)
    assert found is not None  # it matches nothing, too
    return found.end()


def _checked_object(row: Any, text: str, where: str) -> dict[str, Any]:
    """The row. Raises ConfigError where it is no object, or where ``text``, its JSON, has a lone surrogate, which no
    tokenizer takes."""
    if not isinstance(row, dict):
        raise ConfigError(f'{where}: {kind_of(row)}, but an object like {{"prompt": "…"}} is needed')
    if "\\ud" in text.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{where}: cannot be read ({error}); fix it") from error
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object as a dict. Raises ValueError for a repeated name, where Python would silently keep the last value."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f'"{repeated([name for name, _ in pairs])}" occurs twice in one object')
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs twice."""
    return next((name for name in names if names.count(name) > 1), None)


def kind_of(value: Any) -> str:
    """The kind of a JSON value, for error messages: "an object", "a number", "null" …"""
    return "null" if value is None else JSON_KINDS[type(value)]
