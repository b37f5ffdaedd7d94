"""Files and folders that a configuration names. They are saved as absolute paths: a run reads the same ones wherever it
is resumed."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import has_magic, iglob
from pathlib import Path
from typing import Any

from dqo.config import GROUPS
from dqo.config.schema import Config, Eval
from dqo.errors import ConfigError

NAMES = re.compile(r"(?:.+_)?(?:path|file|folder|dir|directory)")  # keys with such a name hold a file or folder
SCORERS = ("eval.nli", "eval.novelty.classifier", "eval.novelty.reward_model")
OTHERS = ("model.chat_template", "embed.model", *SCORERS)  # a file or a template's text, a folder or a hub name
FUNCTION = "function"  # path/to/file.py:name, or my_module.name
UNQUOTED = re.compile(r"[\w./:-]+", re.ASCII)  # Hydra reads such a text as it is

Value = str | list[str]


def names_path(key: str) -> bool:
    """Whether a key's value may be a file or folder: "task.path", "reward.parts.style.function"."""
    last = key.rpartition(".")[2]
    return key in OTHERS or last == FUNCTION or NAMES.fullmatch(last) is not None


def path_keys(config: Config) -> dict[str, Value]:
    """The values of the groups' and scorers' keys that may be files or folders; a list of reward functions too."""
    novelty = config.eval.novelty
    scorers = zip(SCORERS, (config.eval.nli, novelty.classifier, novelty.reward_model), strict=True)
    found: dict[str, Value] = {key: value for key, value in scorers if value}
    for group in GROUPS:
        for key, value in _leaves(getattr(config, group), group):
            texts = value if isinstance(value, list) else [value]
            if names_path(key) and texts and all(isinstance(text, str) and text for text in texts):
                found[key] = value
    return found


def absolute_paths(config: Config, folder: Path, *, moved_from: Path | None = None) -> dict[str, Value]:
    """The keys whose values name files or folders that exist, relative to ``folder`` or to ~, with the absolute paths.
    A text of which there is no file is left as it is: it may be a name on the hub. Raises ConfigError for ``~NAME``
    where there is no such user.

    ``moved_from``: the folder in which the run was started. What is no longer there, but under ``folder``, is taken
    from ``folder``.
    """
    found = {}
    for key, value in path_keys(config).items():
        try:
            made = [_absolute(text, folder, moved_from) for text in (value if isinstance(value, list) else [value])]
        except RuntimeError as error:  # of expanduser
            raise ConfigError(f"{key}={value}: no user has the folder of the ~; type the whole path") from error
        absolute = made if isinstance(value, list) else made[0]
        if absolute != value:
            found[key] = absolute
    return found


def with_values(config: Config, values: Mapping[str, Value]) -> Config:
    """The configuration with other values of some of the keys that ``path_keys`` gives."""
    nodes = {group: getattr(config, group) for group in GROUPS} | {"eval": config.eval.model_dump()}
    for key, value in values.items():
        nodes = _replaced(nodes, key.split("."), value)
    return config.model_copy(update={**nodes, "eval": Eval.model_validate(nodes["eval"])})


def with_overrides(overrides: Sequence[str], values: Mapping[str, Value]) -> list[str]:
    """The command line's overrides with these values, in place of what was typed or at the end."""
    written, left = [], dict(values)
    for text in overrides:
        key, is_value, _ = text.partition("=")
        bare = key.lstrip("+")
        written.append(f"{key}={_quoted(left.pop(bare))}" if is_value and bare in left else text)
    return [*written, *(f"{key}={_quoted(value)}" for key, value in left.items())]


def file_of(value: str) -> Path:
    """The file that a value names, without a function's name: "r.py:score" is r.py."""
    home, _, name = value.rpartition(":")
    return Path(home if home.endswith(".py") and all(part.isidentifier() for part in name.split(".")) else value)


def has_moved(key: str, now: Any, then: Any) -> bool:
    """Whether two values of a key may be two places of one file or folder: of a reward function in a file, the name is
    the same."""
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return all(each == other or has_moved(key, each, other) for each, other in zip(now, then, strict=True))
    if not (names_path(key) and isinstance(now, str) and isinstance(then, str)):
        return False
    name = _function_of(now)
    return name == _function_of(then) and (name != "" or not key.endswith(f".{FUNCTION}"))


def _absolute(text: str, folder: Path, moved_from: Path | None) -> str:
    there = file_of(text).expanduser()
    if moved_from and there.is_relative_to(moved_from) and not os.path.lexists(there):
        there = there.relative_to(moved_from)
    if not os.path.exists(folder / there):  # noqa: PTH110  the text may be no path at all, and too long for one
        pattern = str(folder / there)
        return pattern if has_magic(text) and next(iglob(pattern, recursive=True), None) else text  # noqa: PTH207
    path = folder / there
    return f"{path.resolve() if '..' in path.parts else path}{_function_of(text)}"


def _function_of(text: str) -> str:
    """What follows the file's name: ":score" of "r.py:score"."""
    return f":{text.rpartition(':')[2]}" if ".py:" in text and file_of(text) != Path(text) else ""


def _leaves(node: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The keys of a node and of the nodes in it: not what a user has named, as in task.columns."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        elif "_target_" in node:
            yield f"{prefix}.{name}", value


def _replaced(node: Mapping[Any, Any], names: Sequence[str], value: Value) -> dict[Any, Any]:
    first, *rest = names
    return {**node, first: _replaced(node[first], rest, value) if rest else value}


def _quoted(value: Value) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString  # not for the workers

    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    return value if UNQUOTED.fullmatch(value) else QuotedString(text=value, quote=Quote.single).with_quotes()
