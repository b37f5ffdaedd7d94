"""Checks a configuration against its types: the schema for the top level, constructors' signatures for the groups.

A group's node names its class in ``_target_``. The class's keyword-only parameters are the node's keys, their
annotations the types; its positional parameters are handed over by the program (``dqo.run.build``) and are no keys.
This holds for a user's own class as for ours.
"""

import difflib
import inspect
import re
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from dqo.config.credentials import refuse_secrets
from dqo.config.schema import GROUPS, Config
from dqo.errors import ConfigError

PRESETS = ("experiment", "algorithm")  # groups that set keys of others
LISTED = 20  # names that a message can hold


def check(config: DictConfig) -> DictConfig:
    """The configuration with every interpolation resolved and every type checked. Raises ConfigError."""
    try:
        resolved = plain(config, resolve=True)
    except OmegaConfBaseException as error:
        raise _readable(error, "") from error
    refuse_secrets(flat(resolved).items())
    for preset in PRESETS:
        if preset in resolved:
            raise ConfigError(f"{preset}: its file sets no keys of the run; make its first line # @package _global_")
    checked = _merged(OmegaConf.structured(Config), OmegaConf.create(resolved), "")
    for name in checked:
        if OmegaConf.is_missing(checked, name):
            raise ConfigError(f"{name} has no value; type {name}=…")
    for group in GROUPS:
        if not isinstance(checked[group], DictConfig):
            raise ConfigError(
                f"{group}={checked[group]}: an option of the group is needed; dqo-train --help lists them"
            )
        if "_target_" not in checked[group]:
            raise ConfigError(
                f"{group} names no class; type {group}=OPTION (dqo-train --help lists them), or in a file of yours "
                "the line _target_: my_module.MyClass"
            )
        arguments(checked[group], group)
    return checked


def arguments(node: DictConfig, key: str) -> tuple[type, dict[str, Any]]:
    """The class that a resolved node names, and the keyword arguments it gives. Raises ConfigError with the whole key.

    Example: the node of conf/credit/dpp.yaml and ``"credit"`` give ``(Dpp, {"kernel": Kernel.cosine, …})``.
    """
    cls = _target(node, key)
    hints = get_type_hints(cls.__init__)
    parameters = [
        parameter
        for parameter in inspect.signature(cls.__init__).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    fields = [(p.name, _storable(hints.get(p.name, Any)), _default(p)) for p in parameters]
    given = {name: value for name, value in plain(node).items() if name != "_target_"}
    merged = _merged(OmegaConf.structured(make_dataclass(cls.__name__, fields)), OmegaConf.create(given), key)
    for name in merged:
        if OmegaConf.is_missing(merged, name):
            raise ConfigError(f"{key}.{name} has no value; type {key}.{name}=…")
    return cls, {name: _chosen(hints.get(name, Any), value, f"{key}.{name}") for name, value in plain(merged).items()}


def _target(node: DictConfig, key: str) -> type:
    target = node["_target_"]
    if not isinstance(target, str):
        raise ConfigError(f"{key}._target_={target}: a class is needed, as in _target_: my_module.MyClass")
    try:
        return get_class(target)
    except Exception as error:  # whatever a module of the user's raises on import
        why = str(error).removeprefix(f"Error loading '{target}':").strip()
        raise ConfigError(
            f"{key}._target_={target}: cannot be imported: {why}; name a class of a module that is installed or in the "
            "folder you start in"
        ) from error


def _default(parameter: inspect.Parameter) -> Any:
    if parameter.default is inspect.Parameter.empty:
        return field(default="???")
    return field(default_factory=lambda: parameter.default)


def _storable(hint: Any) -> Any:
    """The hint as OmegaConf can hold it: choices as text (checked in ``_chosen``), containers of unions as Any."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return str
    if get_origin(hint) in (Union, UnionType):
        members = [_storable(member) for member in get_args(hint) if member is not NoneType]
        if any(get_origin(member) in (list, dict, tuple) for member in members) and len(members) > 1:
            return Any
        if len(members) == 1:
            return members[0] | None if NoneType in get_args(hint) else members[0]
        return Union[tuple(members) + ((NoneType,) if NoneType in get_args(hint) else ())]  # noqa: UP007
    return hint


def _merged(schema: DictConfig, given: DictConfig, key: str) -> DictConfig:
    try:
        return OmegaConf.merge(schema, given)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise _readable(error, key, known=[f"{key}.{name}" if key else name for name in schema]) from error


def _chosen(hint: Any, value: Any, key: str) -> Any:
    """Text to a member of its StrEnum."""
    for choice in (hint, *get_args(hint)):
        if isinstance(choice, type) and issubclass(choice, Enum) and value is not None:
            try:
                return choice(value)
            except ValueError:
                allowed = " | ".join(str(member.value) for member in choice)
                raise ConfigError(f"{key}={value}: allowed are {allowed}") from None
    return value


def _readable(error: OmegaConfBaseException, key: str, known: list[Any] | None = None) -> ConfigError:
    """OmegaConf's message in one line, with the whole key."""
    inner = getattr(error, "full_key", None) or ""
    full = f"{key}.{inner}" if key and inner and not inner.startswith(f"{key}.") else inner or key
    if isinstance(error, ConfigKeyError):
        return ConfigError(f"unknown key {full}{suggestion(full, known or [])}")
    if "is not a subclass of" in str(error):
        return ConfigError(f"{full} is not one value, it has keys of its own; type {full}.KEY=VALUE")
    needed = f"; type {full}={_needed(error)}" if isinstance(error, ValidationError) else ""
    return ConfigError(f"{full}: {_first_line(error)}{needed}")


def _needed(error: ValidationError) -> str:
    """A placeholder of the type the key wants: NUMBER, true|false …"""
    wanted = re.split(r"\bto\b|for field of type", _first_line(error).lower())[-1]
    words = {"int": "INTEGER", "float": "NUMBER", "bool": "true|false", "list": "[A,B]"}
    return next((placeholder for word, placeholder in words.items() if word in wanted), "VALUE")


def suggestion(name: str, known: list[Any]) -> str:
    """'; did you mean X?' or the list of what there is."""
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed are {', '.join(sorted(map(str, known)))}" if len(known) <= LISTED else "; --help lists the keys"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def plain(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    """As dicts and lists; ``resolve``: interpolations replaced by what they point at."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def load(path: Path) -> DictConfig:
    """A configuration that was saved."""
    return cast(DictConfig, OmegaConf.load(path))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by their whole key: {"credit.kernel": "cosine", …}."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves
