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
    """The function of ``my_module.score``, ``path/to/file.py:score`` or ``path/to/file.py:Class.method``. Raises
    ConfigError if there is none, and whatever the module raises when imported."""
    home, _, name = path.rpartition(":" if ":" in path else ".")
    file = Path(home).expanduser()
    is_file = file.suffix == ".py" or file.is_file() or not all(part.isidentifier() for part in home.split("."))
    module = _module_from_file(file, name) if ":" in path and is_file else _module(home, name)
    function: Any = module
    for part in name.split("."):
        if not hasattr(function, part):
            raise ConfigError(
                f"{getattr(module, '__file__', None) or home} has no function {name}{_hint(module, name)}"
            )
        function = getattr(function, part)
    if isinstance(function, ModuleType):
        raise ConfigError(
            f"{path} is a module, a function of it is needed; type reward.function={path}.{_example(function)}"
        )
    if isinstance(function, type):
        raise ConfigError(
            f"{path} is a class, a function is needed; add the line my_{name.lower()} = {name}(…) to the file, and "
            f"type reward.function={path.removesuffix(name)}my_{name.lower()}"
        )
    if not callable(function):
        raise ConfigError(f"{path} is {_description(function)}, a function is needed")
    return function


def _hint(module: ModuleType, name: str) -> str:
    """What was meant by a name that the module does not have."""
    beside = Path(f"{module.__name__.replace('.', '/')}.py")
    if beside.is_file() and not beside.samefile(getattr(module, "__file__", None) or "."):
        return f"; it is not your {beside}, whose name it has: type reward.function={beside}:{name}"
    if importlib.util.find_spec(f"{module.__name__}.{name}") if hasattr(module, "__path__") else None:
        inner = f"{module.__name__}.{name}"
        return f", but a module of this name: type reward.function={inner}.{_example(importlib.import_module(inner))}"
    near = difflib.get_close_matches(name, [n for n, v in vars(module).items() if callable(v)], n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _example(module: ModuleType) -> str:
    """A function that the module defines, or a placeholder."""
    functions = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return next((name for name in functions if not name.startswith("_")), "FUNCTION")


def _module(name: str, function: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        file = Path(f"{name.replace('.', '/')}.py")
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            # the module exists, but a module that it imports does not
            beside = file.with_name(f"{(error.name or '').partition('.')[0]}.py")
            if file.is_file() and beside.is_file():
                raise ConfigError(
                    f"{file} imports {error.name}, which is beside it and not where you start; "
                    f"type reward.function={file}:{function}"
                ) from error
            raise
        hint = _file_hint(name, function)
        raise ConfigError(
            f"there is no module {error.name} in {Path.cwd()} or among the installed packages{hint}"
        ) from error


def _file_hint(name: str, function: str) -> str:
    """What to type for a file that was not typed as one: ``rewards/mine.score`` or ``rewards/mine.py``."""
    if function == "py" and Path(f"{name}.py").is_file():
        return f"; type reward.function={name}.py:FUNCTION"
    return f"; type reward.function={name}.py:{function}" if Path(f"{name}.py").is_file() else ""


def _module_from_file(path: Path, function: str) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"there is no file {path if path.is_absolute() else Path.cwd() / path}")
    # Under a name of its own, so that a user's json.py does not replace the module json.
    spec = importlib.util.spec_from_file_location(f"reward_function_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; its name must end with .py")
    sys.path.insert(1, str(path.resolve().parent))  # it can import its neighbours, as a script can
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if "relative import" not in str(error):
            raise
        raise ConfigError(
            f"{path} is loaded as a file and not as part of a package, so that {_relative(path, function)}"
        ) from error
    return module


def _relative(path: Path, function: str) -> str:
    """What to do about a file's ``from .utils import x``."""
    inside = path.resolve().with_suffix("")
    parts = inside.relative_to(Path.cwd()).parts if inside.is_relative_to(Path.cwd()) else ()
    if len(parts) > 1 and all(part.isidentifier() for part in parts):
        return f"relative imports do not work; type reward.function={'.'.join(parts)}.{function}"
    return (
        "relative imports do not work; write from utils import x in place of from .utils import x, for a file beside it"
    )


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
