"""From what pydantic finds to one line with the whole key: what was given, what is allowed, what to type."""

import difflib
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dqo.config.other_toolkits import Key, named
from dqo.errors import ConfigError

LISTED = 20  # names that a message can hold
NEEDED = {  # the first word of pydantic's error type: what is needed, a placeholder to type
    "int": ("a whole number", "INTEGER"),
    "float": ("a number", "NUMBER"),
    "finite": ("a finite number", "NUMBER"),
    "bool": ("true or false", "true|false"),
    "string": ("text", "TEXT"),
    "list": ("a list", "[A,B]"),
    "dict": ("a value for each name", "{NAME:VALUE}"),
}
EXAMPLES = {  # of keys that have no default, by their names
    "base_url": "http://HOST:8000/v1",
    "function": "my_module.score",
    "model": "NAME",
    "path": "FOLDER",
    "url": "http://HOST:8100",
}
BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "below {}"}


def refusal(error: ValidationError, key: str, given: Any, hint: Any) -> ConfigError:
    """The line for pydantic's first error. ``given``: the value of ``key``; ``hint``: its type."""
    errors = error.errors(include_url=False)
    kind, place, field, known = errors[0]["type"], (), FieldInfo.from_annotation(hint), ()
    for name in errors[0]["loc"]:  # skips the members of a union and positions in a list: they are no part of the key
        fields = getattr(field.annotation, "model_fields", {})
        if isinstance(given, Mapping) and (name in given or kind == "missing"):
            known = [_joined(key, each) for each in fields]
            place, key, given, field = (*place, name), _joined(key, name), given.get(name), fields.get(name, field)
    if kind == "missing" and isinstance(errors[0]["loc"][-1], str):  # else an entry of a tuple is missing
        return no_value(key)
    if kind == "extra_forbidden":
        return unknown_key(key, known, given)
    if kind == "model_type":
        return ConfigError(f"{key}={_shown(given)}: it is not one value, it has keys of its own; type {key}.KEY=VALUE")
    options = dict.fromkeys(_option(each) for each in errors if each["loc"][: len(place)] == place)
    what, example = f"allowed are {' | '.join(options)}", field.examples[0] if field.examples else None
    if len(options) == 1 and "expected" not in errors[0].get("ctx", {}):
        needed, placeholder = _needed(errors[0], field)
        null = ", or null" if NoneType in get_args(field.annotation) else ""
        if isinstance(given, list) and errors[0]["input"] is not given:  # it is in the list
            placeholder = f"[{placeholder}]"
        if kind == "list_type" and isinstance(given, str | None):
            placeholder = f"[{(given or '').strip('[]')}]"
        what, example = f"{needed}{null}", placeholder if example is None else example
    return ConfigError(f"{key}={_shown(given)}: {what}{'' if example is None else f'; type {key}={example}'}")


def no_value(key: str) -> ConfigError:
    """The error for a key without a value."""
    return ConfigError(f"{key} has no value; type {key}={EXAMPLES.get(key.rpartition('.')[2], '…')}")


def unknown_key(key: str, known: Iterable[str], given: Any = None, *, command: str = "train") -> ConfigError:
    """The error for a key that does not exist: what another toolkit's key is called in ``command``, or the closest of
    the keys that do exist. ``given``: its value, or keys within it; None: unknown."""
    while isinstance(given, Mapping) and given:  # +actor_rollout_ref.rollout.n=8
        name, given = next(iter(given.items()))
        key = f"{key}.{name}"
    if key.startswith("parts.") and key.endswith("._target_"):  # +reward@parts.NAME=OPTION
        place = f"reward.{key.removesuffix('._target_')}"
        return ConfigError(f"unknown key {key}: parts of a sum of rewards are in reward; type +reward@{place}=OPTION")
    known = [*known]
    if found := named(key, command):
        return ConfigError(f"unknown key {key}: {_elsewhere(*found, given)}")
    same = _same_name(key, known)
    return ConfigError(f"unknown key {key}{suggestion(key, known) if same is None else f'; did you mean {same}?'}")


def _same_name(key: str, known: Iterable[str]) -> str | None:
    """The known key whose name is the end of what was typed, or ends as it does: ``trainer.seed``, ``lora_alpha``."""
    last = key.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == last]
    return min(same, key=lambda each: (each.count("."), len(each)), default=None)


def _elsewhere(name: str, key: Key, given: Any) -> str:
    """What a key of another toolkit is called here."""
    if not key.type:
        return f"there is nothing like it here: {key.note}; leave it out"
    note = f" ({key.note})" if key.note else ""
    value = "" if given is None else _shown(given)
    return f"other toolkits' {name} is {key.type.partition('=')[0]} here{note}; type {key.with_value(value)}"


def suggestion(name: str, known: list[Any]) -> str:
    """'; did you mean X?' or the list of what there is."""
    if not known:
        return "; there are no keys here"
    close = difflib.get_close_matches(name, [str(k) for k in known], n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed are {', '.join(sorted(map(str, known)))}" if len(known) <= LISTED else "; --help lists the keys"


def _joined(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _option(error: ErrorDetails) -> str:
    """What may be typed, in short: the names of an enumeration, or a placeholder."""
    if "expected" in (context := error.get("ctx", {})):
        return context["expected"].replace(", ", " | ").replace(" or ", " | ").replace("'", "")
    if passed := next((name for name in BOUNDS if name in context), None):
        return BOUNDS[passed].format(_number(context[passed]))
    return NEEDED.get(error["type"].partition("_")[0], ("", "VALUE"))[1]


def _needed(error: ErrorDetails, field: FieldInfo) -> tuple[str, str]:
    """What is needed, and what to type where no example is known: the bound that was passed, or a placeholder."""
    context = error.get("ctx", {})
    if passed := next((name for name in BOUNDS if name in context), None):
        bounds = {
            name: getattr(each, name) for each in field.metadata for name in BOUNDS if hasattr(each, name)
        } | context
        words = [text.format(_number(bounds[name])) for name, text in BOUNDS.items() if name in bounds]
        return f"{' and '.join(words)} is needed", _number(context[passed]) if passed in ("ge", "le") else "NUMBER"
    if error["type"] == "string_pattern_mismatch":
        return f"text of the form {context['pattern']} is needed", "TEXT"
    if error["type"] == "too_short":
        return f"{context['min_length']} or more entries are needed", "[A,B]"
    if error["type"] == "too_long":
        return f"at most {context['max_length']} entries are needed", "[A,B]"
    if found := NEEDED.get(error["type"].partition("_")[0]):
        return f"{found[0]} is needed", found[1]
    return error["msg"], "VALUE"


def _number(bound: Any) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
