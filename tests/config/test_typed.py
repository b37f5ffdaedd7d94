import contextlib
import copy
import functools
import inspect
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Protocol, get_type_hints

import pytest
import yaml
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field

from dqo.config import GROUPS, conf_dir
from dqo.config.typed import arguments, check, check_groups, flat, keys, load, plain, to_yaml
from dqo.config.validate import validate
from dqo.errors import ConfigError
from dqo.stages import Reward
from tests.config.builders import checked, composed


class Kind(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Mine:
    """A user's own stage: positional from the program, keyword-only from YAML."""

    def __init__(
        self,
        task,
        *,
        size: int,
        rate: float,
        kind: Kind,
        name: str | None,
        names: list[str] | None,
        weights: dict[str, float],
        either: str | list[str],
        on: bool = True,
    ):
        pass


GOOD = {
    "_target_": f"{__name__}.Mine",
    "size": 3,
    "rate": 1,
    "kind": "large",
    "name": None,
    "names": ["a"],
    "weights": {"a": 1.0},
    "either": ["x", "y"],
}


def node(**changes):
    return {**GOOD, **changes}


def test_values_come_out_in_their_types():
    cls, values = arguments(node(), "credit")
    assert cls is Mine
    assert values == {
        "size": 3, "rate": 1.0, "kind": Kind.LARGE, "name": None, "names": ["a"], "weights": {"a": 1.0},
        "either": ["x", "y"],
    }  # fmt: skip
    assert isinstance(values["rate"], float) and isinstance(values["kind"], Kind)


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("size", "4", 4), ("rate", "1e-3", 1e-3), ("rate", 4, 4.0), ("name", 5, "5"), ("name", 0.5, "0.5"),
        ("on", "off", False), ("on", 1, True), ("names", [1], ["1"]), ("weights", {"a": 1}, {"a": 1.0}),
    ],
)  # fmt: skip
def test_what_is_converted(key, given, value):
    converted = arguments(node(**{key: given}), "credit")[1][key]
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "four"}, r"^credit\.size=four: a whole number is needed; type credit\.size=INTEGER$"),
        ({"size": 1.5}, r"^credit\.size=1\.5: a whole number is needed; type credit\.size=INTEGER$"),
        ({"size": 4.0}, r"^credit\.size=4\.0: a whole number"),
        ({"size": True}, r"^credit\.size=true: a whole number"),
        ({"size": None}, r"^credit\.size=null: a whole number"),
        ({"size": 10**30}, r"^credit\.size=10{30}: at most 9223372036854775807 is needed"),
        ({"rate": "fast"}, r"^credit\.rate=fast: a number is needed; type credit\.rate=NUMBER$"),
        ({"rate": True}, r"^credit\.rate=true: a number"),
        ({"rate": math.nan}, r"^credit\.rate=nan: a finite number"),
        ({"rate": 10**400}, r"^credit\.rate=10{400}: a number"),
        ({"name": True}, r"^credit\.name=true: text is needed, or null; type credit\.name=TEXT$"),
        ({"on": "maybe"}, r"^credit\.on=maybe: true or false is needed; type credit\.on=true\|false$"),
        ({"kind": "medium"}, r"^credit\.kind=medium: allowed are small \| large$"),
        ({"names": "a"}, r"^credit\.names=a: a list is needed, or null; type credit\.names=\[a\]$"),
        ({"names": [{}]}, r"^credit\.names=\[{}\]: text is needed, or null; type credit\.names=\[TEXT\]$"),
        ({"weights": 3}, r"^credit\.weights=3: a value for each name is needed; type credit\.weights={NAME:VALUE}$"),
        ({"weights": {"a": "much"}}, r"^credit\.weights\.a=much: a number is needed; type credit\.weights\.a=NUMBER$"),
        ({"weights": {"a": True}}, r"^credit\.weights\.a=true: a number is needed"),
        ({"either": {}}, r"^credit\.either={}: allowed are TEXT \| \[A,B\]$"),
        ({"sise": 3}, r"^unknown key credit\.sise; did you mean credit\.size\?$"),
        ({"task": "mine"}, r"^unknown key credit\.task"),
        ({"_target_": "dqo.missing.Missing"}, r"^credit\._target_=dqo\.missing\.Missing: cannot be imported"),
        ({"_target_": 5}, r"^credit\._target_=5: a class is needed"),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_their_whole_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        arguments(node(**changes), "credit")


def test_a_missing_value_says_what_to_type():
    incomplete = {key: value for key, value in GOOD.items() if key != "size"}
    with pytest.raises(ConfigError, match=r"^credit\.size has no value; type credit\.size=…$"):
        arguments(incomplete, "credit")


class Colour(Enum):
    RED = 1


class Speaking(Protocol):  # cannot be checked at run time
    def speak(self) -> str: ...


class Point(BaseModel):
    x: int


class Unresolved:
    def __init__(self, *, size: "NoSuchType"):
        pass


class Anything:
    """What a user may write in a signature."""

    def __init__(
        self,
        *,
        bare,
        any: Any,
        maybe: Optional[int] = None,  # noqa: UP045
        schema: Literal["a", "b"] = "a",
        _private: int = 0,
        model_config: str = "",
        colour: Colour = Colour.RED,
        pair: tuple[int, float] = (1, 2.0),
        path: Path = Path(),
        reward: Reward | None = None,
        protocol: Speaking | None = None,
        plain: Mapping[str, Any] = {},
        point: Point = Point(x=0),  # noqa: B008
        ranged: Annotated[int, Field(ge=1)] | None = None,
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "values"),
    [
        ({}, {}),
        ({"maybe": 3, "schema": "b", "_private": 2, "model_config": "x"}, None),
        ({"colour": 1, "pair": [1, 2], "path": "a"}, {"colour": Colour.RED, "pair": (1, 2.0), "path": Path("a")}),
        ({"reward": {"_target_": "a.b"}, "protocol": 5, "plain": {"a": [True]}}, None),
        ({"point": {"x": 4}}, {"point": Point(x=4)}),
    ],
)  # fmt: skip
def test_whatever_annotation_a_user_writes(changes, values):
    wanted = {"bare": [1], "any": {"a": True}}
    given = {"_target_": f"{__name__}.Anything", **wanted, **changes}
    assert arguments(given, "reward") == (Anything, wanted | (changes if values is None else values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point": {"x": "a"}}, r"^reward\.point\.x=a: a whole number is needed; type reward\.point\.x=INTEGER$"),
        ({"point": {}}, r"^reward\.point\.x has no value"),
        ({"point": 3}, r"^reward\.point=3: it is not one value, it has keys of its own; type reward\.point\.KEY="),
        ({"schema": "c"}, r"^reward\.schema=c: allowed are a \| b$"),
        ({"ranged": 0}, r"^reward\.ranged=0: 1 or more is needed, or null; type reward\.ranged=1$"),
        ({"pair": [1, 2, 3]}, r"^reward\.pair=\[1,2,3\]: at most 2 entries are needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_them(changes, message):
    with pytest.raises(ConfigError, match=message):
        arguments({"_target_": f"{__name__}.Anything", "bare": 1, "any": 1, **changes}, "reward")


def test_an_annotation_that_cannot_be_resolved():
    with pytest.raises(ConfigError, match=r"^reward\._target_=.*Unresolved: cannot be imported: name 'NoSuchType'"):
        arguments({"_target_": f"{__name__}.Unresolved", "size": 1}, "reward")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: Annotated[int, Field(ge=1, examples=[8])]
    height: int = 2


class Grouped:
    def __init__(self, task, *, sizes: Sizes, depth: int):
        pass


def test_a_dataclass_takes_its_fields_from_the_nodes_own_keys():
    target = {"_target_": f"{__name__}.Grouped"}
    assert arguments(target | {"width": "3", "depth": 1}, "model")[1] == {"depth": 1, "sizes": Sizes(width=3)}
    assert list(keys(Grouped)) == ["width", "height", "depth"]
    for changes, message in (
        ({"width": 0, "depth": 1}, r"^model\.width=0: 1 or more is needed; type model\.width=8$"),
        ({"depth": 1}, r"^model\.width has no value"),
        ({"width": 1, "heigth": 1, "depth": 1}, r"^unknown key model\.heigth; did you mean model\.height\?$"),
        ({"width": 1, "sizes": 1, "depth": 1}, r"^unknown key model\.sizes"),
    ):
        with pytest.raises(ConfigError, match=message):
            arguments(target | changes, "model")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A group of keys that belong together."""

    low: int = 1
    high: int = 2

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")


class Spanned:
    """A user's class whose group has a default of its own."""

    def __init__(self, *, span: Span = Span(low=5, high=9)):
        self.span = span

    class Inner:
        """A class in a class."""

        def __init__(self, *, size: int):
            pass


def test_the_default_of_a_group_is_the_constructors_where_none_of_its_keys_is_given():
    assert arguments({"_target_": f"{__name__}.Spanned"}, "credit")[1] == {}
    assert arguments({"_target_": f"{__name__}.Spanned", "high": 7}, "credit")[1] == {"span": Span(low=1, high=7)}


def test_a_group_of_the_users_that_refuses_its_values_is_one_line():
    with pytest.raises(ConfigError, match=r"^credit: Span\(…\) raised ValueError: low is above high$"):
        arguments({"_target_": f"{__name__}.Spanned", "low": 3}, "credit")


def test_a_class_in_a_class_is_found():
    cls, values = arguments({"_target_": f"{__name__}.Spanned.Inner", "size": 3}, "credit")
    assert cls is Spanned.Inner and values == {"size": 3}
    with pytest.raises(ConfigError, match="cannot be imported: No module named"):
        arguments({"_target_": f"{__name__}.Gone.Inner"}, "credit")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("my_stages.Lenghts", r"has no attribute 'Lenghts'; did you mean my_stages\.Lengths\?"),
        ("my_stages.py:Lengths", r"not by its file; type my_stages\.Lengths"),
        ("fails.Lengths", r"name 'nosuch' is not defined \(fails\.py:2\)"),
        ("relative.Lengths", r"\(relative\.py:1\); write from utils import x in place of from \.utils import x"),
    ],
)
def test_a_users_class_that_cannot_be_imported_says_where_and_what_to_type(target, says, tmp_path, monkeypatch):
    (tmp_path / "my_stages.py").write_text("class Lengths: ...\n")
    (tmp_path / "fails.py").write_text("a = 1\nb = nosuch\n")
    (tmp_path / "relative.py").write_text("from .utils import one\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_stages", raising=False)
    with pytest.raises(ConfigError, match=says):
        arguments({"_target_": target}, "credit")


class Odd:
    """A user's annotations that pydantic has its own errors for."""

    def __init__(self, *, union: Annotated[int | str, Field(ge=0)] = 1, pair: tuple[int, int] = (1, 2)):
        pass


@pytest.mark.parametrize(("key", "value"), [("union", "a"), ("pair", [1])])
def test_annotations_of_the_users_that_pydantic_trips_over_are_one_line(key, value):
    with pytest.raises(ConfigError, match=rf"^credit\.{key}=.*; type "):
        arguments({"_target_": f"{__name__}.Odd", key: value}, "credit")


def test_a_class_without_keys_says_so():
    with pytest.raises(ConfigError, match=r"^unknown key reward\.a; there are no keys here$"):
        arguments({"_target_": "dqo.credit.none.NoCredit", "a": 1}, "reward")


def test_a_configuration_is_written_and_read_back(tmp_path):
    config = checked("reward=python", "reward.function=a.b", "reward.on_error='1e-3'", "task.chat_template=false")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "config.yaml") == config
    lines = to_yaml(config).splitlines()
    assert (
        lines[0] == "alpha: 2.0" and "  on_error: '1e-3'" in lines and "  _target_: dqo.reward.python.Python" in lines
    )


def test_flat_names_leaves_by_their_whole_key():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def defaults_of(cls: type) -> dict[str, Any]:
    """The defaults of a constructor's keyword-only parameters, and of the fields of those that are dataclasses."""
    found, hints = {}, get_type_hints(cls.__init__)
    for parameter in inspect.signature(cls.__init__).parameters.values():
        hint = hints.get(parameter.name)
        if parameter.kind is parameter.KEYWORD_ONLY and isinstance(hint, type) and is_dataclass(hint):
            found |= {field.name: field.default for field in fields(hint) if field.default is not MISSING}
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty:
            found[parameter.name] = parameter.default
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_each_option_of_ours_has_exactly_the_keys_of_its_constructor(group):
    for file in Path(conf_dir(), group).glob("*.yaml"):
        found = yaml.safe_load(file.read_text("utf-8"))
        found = found.get(group, found) if group in ("task", "rollout") else found
        if "_target_" in found:
            cls = get_class(found.pop("_target_"))
            known = keys(cls)
            assert set(found) == set(known), file
            assert all(hint is not Any for hint, _ in known.values()), file
            defaults = defaults_of(cls)
            assert set(defaults) == {key for key, (_, needed) in known.items() if not needed}, file
            assert all((found[key] or None) == (value or None) for key, value in defaults.items()), file


OPTIONS = (
    ("task=concepts", "model=tiny", "rollout=fake", "embed=fake", "advantage=unbiased", "credit=distance"),
    ("task=jsonl", "rollout=vllm", "learner=deepspeed_zero", "reward=python", "reward.function=a.b"),
    ("task=gsm8k", "reward=check_and_python", "reward.parts.style.function=a.b"),
)
WORDS = st.sampled_from(
    ["", " ", "null", "true", "dpp", "cosine", "1e400", "-1", "0x1", "???", "a.b", "1_000", "ü", "="]
)
TEXT = st.text(st.characters(exclude_categories=["C"]), max_size=9)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(), inner, max_size=3),
    max_leaves=5,
)


def places(config: Mapping[Any, Any], prefix: str = "") -> list[str]:
    """Every key that has a value or keys of its own."""
    found = []
    for name, value in config.items():
        found += [f"{prefix}{name}", *(places(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_whatever_is_typed_is_accepted_or_refused_by_its_whole_key(options, data):
    tree = copy.deepcopy(plain(composed(*options), resolve=True))
    key, value = data.draw(st.sampled_from(places(tree))), data.draw(JUNK)
    *above, last = key.split(".")
    functools.reduce(dict.__getitem__, above, tree)[last] = value
    try:
        config = OmegaConf.create(tree)
    except OmegaConfBaseException:  # "${": Hydra refuses it before
        return
    try:
        check_groups(check(config))
    except ConfigError as error:
        assert key in str(error)
        assert "\n" not in str(error)
    with contextlib.suppress(ConfigError):  # before the classes are known
        validate(check(config))
