"""Checks a configuration against its types: the schema for the top level, constructors' signatures for the groups.

A group's node names its class in ``_target_``. The class's keyword-only parameters are the node's keys, and their
annotations the types and ranges (``Annotated[float, Field(gt=0)]``, pydantic). Its positional parameters are handed
over by the program (``dqo.run.build``) and are no keys. This holds for a user's own class as for ours.
"""

import contextlib
import difflib
import importlib
import inspect
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails

from dqo.config import GROUPS
from dqo.config.credentials import refuse_secrets
from dqo.config.refusal import no_value, refusal, unknown_key
from dqo.config.schema import RULES, Config, Section
from dqo.errors import ConfigError

PRESETS = ("experiment", "algorithm")  # groups that set keys of others
LARGEST = 2**63 - 1  # what a seed of torch's holds; no count comes near it

Keys = dict[str, tuple[Any, bool]]  # name: its annotation, whether a value has to be given


def check(config: DictConfig, schema: type[Config] = Config) -> Config:
    """The configuration with every interpolation resolved and the top level checked. Raises ConfigError.

    Imports no stage; ``check_groups`` does.
    """
    try:
        resolved = plain(config, resolve=True)
    except MissingMandatoryValue as error:  # ???
        raise no_value(str(error.full_key)) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'the configuration'}: {str(error).strip().splitlines()[0]}") from error
    refuse_secrets(flat(resolved).items())
    for preset in PRESETS:
        if preset in resolved:
            raise ConfigError(f"{preset}: its file sets no keys of the run; make its first line # @package _global_")
    for group in GROUPS:
        if group in resolved:
            _target(resolved[group], group)
    return typed_value(resolved, schema, "")


def check_groups(config: Config) -> None:
    """Raises ConfigError where a group's keys are not what its class's constructor takes. Imports the classes."""
    for group in GROUPS:
        for key, node in nodes(getattr(config, group), group):
            arguments(node, key)


def arguments(node: Mapping[str, Any], key: str) -> tuple[type, dict[str, Any]]:
    """The class that a resolved node names, and the keyword arguments it gives. Raises ConfigError with the whole key.

    A parameter whose annotation is a dataclass takes its fields from the node's own keys. A key that is left out gets
    the constructor's default. A node inside the node, with a ``_target_`` of its own, is returned unchanged.

    Example: the node of conf/credit/dpp.yaml and ``"credit"`` give ``(Dpp, {"kernel": Kernel.cosine, …})``.
    """
    cls = _class(_target(node, key), key)
    known, parameters, values = keys(cls), _parameters(cls), {}
    for name, value in node.items():
        if name in known:
            is_node = isinstance(value, Mapping) and "_target_" in value
            values[name] = value if is_node else typed_value(value, known[name][0], f"{key}.{name}")
        elif name != "_target_":
            raise unknown_key(f"{key}.{name}", [f"{key}.{each}" for each in known], value)
    for name, (_, needed) in known.items():
        if needed and name not in values:
            raise no_value(f"{key}.{name}")
    made = {}
    for name, (hint, needed) in parameters.items():
        if _is_group(hint) and ((given := _only(values, fields_of(hint))) or needed):
            made[name] = _group(hint, given, key)
    return cls, _only(values, parameters) | made


def keys(cls: type) -> Keys:
    """The keys of a class's node: annotation, and whether a value has to be given."""
    found: Keys = {}
    for name, (hint, needed) in _parameters(cls).items():
        if not _is_group(hint):
            found[name] = (hint, needed)
            continue
        for field, (kind, field_needed) in fields_of(hint).items():
            found[field] = (kind, needed and field_needed)
    return found


def _group(hint: Any, given: dict[str, Any], key: str) -> Any:
    """The dataclass of a parameter. Raises ConfigError for whatever its ``__post_init__`` raises."""
    try:
        return hint(**given)
    except ConfigError:
        raise
    except Exception as error:  # a user's class may raise anything
        raise ConfigError(f"{key}: {hint.__name__}(…) raised {type(error).__name__}: {error}") from error


def _target(node: Any, key: str) -> str:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key}={node}: an option of the group is needed; dqo-train --help lists them")
    if "_target_" not in node:
        raise ConfigError(
            f"{key} names no class; type {key}=OPTION (dqo-train --help lists them), or in a file of yours the line "
            "_target_: my_module.MyClass"
        )
    if not isinstance(node["_target_"], str):
        raise ConfigError(f"{key}._target_={node['_target_']}: a class is needed, as in _target_: my_module.MyClass")
    return node["_target_"]


def _class(target: str, key: str) -> type:
    try:
        cls = _resolved(target)
        if not isinstance(cls, type):
            raise TypeError(f"it is a {type(cls).__name__}, not a class")
        keys(cls)  # annotations are text where a module says so, and may name what is not there
    except Exception as error:  # whatever a module of the user's raises on import
        why = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{key}._target_={target}: cannot be imported: {why}{_where(error)}; {_advice(target, error)}"
        ) from error
    return cls


def _where(error: Exception) -> str:
    """The line of the user's code that failed on import: " (my_stage.py:3)"."""
    ours = (str(Path(__file__).parents[1]), "<frozen ", str(Path(importlib.__file__).parent))
    found = traceback.extract_tb(error.__traceback__)
    frames = [f for f in found if not f.filename.startswith(ours) and "site-packages" not in f.filename]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _advice(target: str, error: Exception) -> str:
    """What to type for a class that cannot be imported."""
    file, _, name = target.rpartition(":")
    if file.endswith(".py"):
        module = ".".join(Path(file).with_suffix("").parts)
        return f"a class is named by its module and not by its file; type {module}.{name}"
    if "relative import" in str(error):
        return "write from utils import x in place of from .utils import x, for a file beside it"
    if isinstance(error, AttributeError) and isinstance(error.obj, ModuleType):
        classes = [name for name, value in vars(error.obj).items() if isinstance(value, type)]
        if near := difflib.get_close_matches(str(error.name), classes, n=1):
            return f"did you mean {target.rpartition('.')[0]}.{near[0]}?"
    return "name a class of a module that is installed or in the folder you start in"


def _resolved(target: str) -> Any:
    """``module.Class``, or ``module.Outer.Inner``."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        outer, _, cls = module.rpartition(".")
        if not outer or error.name != module or not hasattr(importlib.import_module(outer), cls):
            raise
        return getattr(getattr(importlib.import_module(outer), cls), name)


def _parameters(cls: type) -> Keys:
    """The keyword-only parameters of the constructor: annotation, and whether a value has to be given."""
    hints, parameters = _hints(cls.__init__), inspect.signature(cls.__init__).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default is p.empty) for p in parameters if p.kind is p.KEYWORD_ONLY}


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def fields_of(cls: Any) -> Keys:
    """A dataclass's fields, in the form of ``keys``."""
    hints = _hints(cls)
    return {f.name: (hints[f.name], f.default is f.default_factory is MISSING) for f in fields(cls) if f.init}


def _hints(source: Any) -> dict[str, Any]:
    return get_type_hints(source, include_extras=True)


def _only(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def nodes(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with a ``_target_`` and its key: ``value`` itself, and those in it."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        for name, inner in value.items():
            yield from nodes(inner, f"{key}.{name}")


def typed_value(value: Any, hint: Any, key: str) -> Any:
    """The value as the type asks for it. Raises ConfigError."""
    try:
        typed = _adapter(hint).validate_python(value)
        faults = [*_faults(value, typed.model_dump() if isinstance(typed, BaseModel) else typed)]
        if faults and hint is not Any:
            raise ValidationError.from_exception_data(key, faults)
    except ValidationError as error:
        raise refusal(error, key, value, hint) from error
    except TypeError as error:  # a bound of a union that meets a value it cannot be compared with
        raise ConfigError(f"{key}={value}: {error}; type another value, or mend the annotation of {key}") from error
    return typed


def _adapter(hint: Any) -> TypeAdapter:
    """Checks nothing of a type that no YAML value is, such as a Protocol."""
    for rules in (RULES, None):  # None: a model, which has its own
        with contextlib.suppress(PydanticUserError):
            return TypeAdapter(hint, config=rules)
    return TypeAdapter(Any)


def _faults(given: Any, typed: Any, place: tuple[str | int, ...] = ()) -> Iterator[InitErrorDetails]:
    """What pydantic lets pass: true for 1, 4.0 for 4, whole numbers of any size."""
    if isinstance(given, Mapping) and isinstance(typed, Mapping):
        for name, value in given.items():
            yield from _faults(value, typed.get(name), (*place, name))
    elif isinstance(given, list) and isinstance(typed, list | tuple):
        for position, pair in enumerate(zip(given, typed, strict=False)):
            yield from _faults(*pair, (*place, position))
    elif type(typed) is float and isinstance(given, bool):
        yield InitErrorDetails(type="float_type", loc=place, input=given)
    elif type(typed) is int and isinstance(given, bool | float):
        yield InitErrorDetails(type="int_type", loc=place, input=given)
    elif type(typed) is int and typed > LARGEST:
        yield InitErrorDetails(type="less_than_equal", loc=place, input=given, ctx={"le": LARGEST})


def plain(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    """As dicts and lists; ``resolve``: interpolations replaced by what they point at, and ``???`` refused."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve))


def load(path: Path, schema: type[Config] = Config) -> Config:
    """A configuration that ``to_yaml`` wrote. Raises ConfigError."""
    return typed_value(plain(cast(DictConfig, OmegaConf.load(path))), schema, "")


def to_yaml(config: Section) -> str:
    """What stands in a run's config.yaml."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump()))


def flat(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their whole key: {"credit.kernel": "cosine", …}."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
