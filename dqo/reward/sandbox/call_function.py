"""Finds and calls a user's reward function. Runs in the sandbox: imports no torch."""

import asyncio
import difflib
import functools
import importlib
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from pathlib import Path
from types import ModuleType
from typing import Any

from dqo.errors import ConfigError


def describe(path: str) -> dict[str, Any]:
    """Import the function; ``takes`` are the arguments it can be given, ``needs`` those without a default, ``open``
    says that it has ``**kwargs``. Raises ConfigError where it cannot be called by name."""
    function = load(path)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return {"takes": [], "needs": [], "open": True}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for p in parameters:
        if p.kind is p.POSITIONAL_ONLY and p.default is p.empty:
            raise ConfigError(f"{path} takes {p.name} by position only; arguments are passed by name: take the / away")
    return {
        "takes": [p.name for p in named],
        "needs": [p.name for p in named if p.default is p.empty],
        "open": any(p.kind is p.VAR_KEYWORD for p in parameters),
    }


def score(path: str, arguments: dict[str, Any], rows: int) -> list[float | str | None] | str:
    """The function's values, one more than there are ``rows`` at most: a generator may have no end. A value that is
    neither a number nor None comes back as its description, and so does a return value that is no sequence."""
    value = load(path)(**arguments)
    if inspect.isawaitable(value):
        value = asyncio.run(_awaited(value))
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Set):
        return _shown(value)
    return [_number(item) for item in itertools.islice(value, rows + 1)]


@functools.cache
def load(path: str) -> Callable[..., Any]:
    """``my_module.score`` or ``path/to/file.py:score``. Raises ConfigError, or whatever the module raises on import."""
    home, _, name = path.rpartition(":" if ":" in path else ".")
    module = _from_file(Path(home)) if ":" in path else _imported(home)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{getattr(module, '__file__', None) or home} has no function {name}{hint}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"{path} is {_shown(function)}, a function is needed")
    return function


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, something that it imports is not
        raise ConfigError(f"there is no module {error.name} in {Path.cwd()} or among the installed packages") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path if path.is_absolute() else Path.cwd() / path}")
    spec = importlib.util.spec_from_file_location(f"reward_function_{path.stem}", path)  # a json.py is no json
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file; its name has to end with .py")
    sys.path.insert(1, str(path.resolve().parent))  # its neighbours, as if it were run
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _number(value: Any) -> float | str | None:
    """Numbers of Python, NumPy and torch; text that reads as a number is none."""
    if value is None:
        return None
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return _shown(value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array of several numbers, an integer over 1e308
        return _shown(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
