"""Files of runs, which another program writes and may be killed in: JSON, YAML and JSON lines."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dqo.errors import ConfigError


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ConfigError where it is none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({_reason(error)}); leave its folder out, or remove it") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; None if there is no such file. Raises ConfigError where it is no YAML."""
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read ({_reason(error)}); leave its folder out, or remove it") from error


def read_text(path: Path) -> str:
    """The text of a file, with � for bytes that are no UTF-8; "" if there is no such file."""
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file. A last line that a killed run has not ended is left out."""
    lines = read_text(path).splitlines()
    return [*_objects(path, lines[:-1]), *_last(lines[-1:])]


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: ``{"credit": {"sigma": 0.3}}`` gives ``{"credit.sigma": 0.3}``."""
    found = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def number(value: object) -> float:
    """A number of a JSON file; NaN for null."""
    return float(value) if isinstance(value, int | float) else math.nan


def _objects(path: Path, lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}: a line is no JSON ({_reason(error)}); leave its folder out") from error


def _last(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split())[:200]
