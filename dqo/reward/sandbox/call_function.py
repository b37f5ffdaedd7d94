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
    """The function's parameters: ``takes`` are all names, ``needs`` the names without a default, ``open`` is True if
    it has ``**kwargs``. Raises ConfigError for a parameter that cannot be passed by name; see ``load`` for others."""
    function = load(path)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return {"takes": [], "needs": [], "open": True}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for p in parameters:
        if p.kind is p.POSITIONAL_ONLY and p.default is p.empty:
            raise ConfigError(f"{path} takes {p.name} by position only, but dqo passes it by name; remove the /")
    return {
        "takes": [p.name for p in named],
        "needs": [p.name for p in named if p.default is p.empty],
        "open": any(p.kind is p.VAR_KEYWORD for p in parameters),
    }


def score(path: str, arguments: dict[str, Any], rows: int) -> list[float | str | None] | str:
    """The function's values, at most ``rows`` + 1 of them, since a generator may be endless.

    A value that is neither a number nor None is replaced by its description; a return value that is not iterable comes
    back as one description.
    """
    value = load(path)(**arguments)
    if inspect.isawaitable(value):
        value = asyncio.run(_result(value))
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | Mapping | Set):
        return _description(value)
    return [_number(item) for item in itertools.islice(value, rows + 1)]


@functools.cache
def load(path: str) -> Callable[..., Any]:
    """The function of ``my_module.score`` or ``path/to/file.py:score``. Raises ConfigError if there is none, and
    whatever the module raises when imported."""
    home, _, name = path.rpartition(":" if ":" in path else ".")
    module = _module_from_file(Path(home)) if ":" in path else _module(home)
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{getattr(module, '__file__', None) or home} has no function {name}{hint}")
    function = getattr(module, name)
    if not callable(function):
        raise ConfigError(f"{path} is {_description(function)}, a function is needed")
    return function


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists, but a module that it imports does not
        raise ConfigError(f"there is no module {error.name} in {Path.cwd()} or among the installed packages") from error


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path if path.is_absolute() else Path.cwd() / path}")
    # Under a name of its own, so that a user's json.py does not replace the module json.
    spec = importlib.util.spec_from_file_location(f"reward_function_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; its name must end with .py")
    sys.path.insert(1, str(path.resolve().parent))  # it can import its neighbours, as a script can
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _result(value: Awaitable[Any]) -> Any:
    return await value


def _number(value: Any) -> float | str | None:
    """A number of Python, NumPy or torch as a float, None as None, anything else as its description ("1.0" too)."""
    if value is None:
        return None
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return _description(value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # an array of several numbers, an integer over 1e308
        return _description(value)


def _description(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
