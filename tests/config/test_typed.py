from enum import StrEnum

import pytest
from omegaconf import OmegaConf

from dqo.config.typed import arguments, flat
from dqo.errors import ConfigError


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
    return OmegaConf.create({**GOOD, **changes})


def test_values_come_out_in_their_types():
    cls, values = arguments(node(), "credit")
    assert cls.__name__ == "Mine"
    assert values == {
        "size": 3, "rate": 1.0, "kind": Kind.LARGE, "name": None, "names": ["a"], "weights": {"a": 1.0},
        "either": ["x", "y"], "on": True,
    }  # fmt: skip
    assert isinstance(values["rate"], float) and isinstance(values["kind"], Kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "four"}, r"credit\.size: .*'four'.*Integer; type credit\.size=INTEGER"),
        ({"size": 1.5}, r"credit\.size: .*1\.5"),
        ({"size": None}, r"credit\.size"),
        ({"rate": "fast"}, r"credit\.rate: .*Float; type credit\.rate=NUMBER"),
        ({"on": "maybe"}, r"credit\.on: .*bool.*; type credit\.on=true\|false"),
        ({"kind": "medium"}, r"credit\.kind=medium: allowed are small \| large"),
        ({"names": "a"}, r"credit"),
        ({"weights": {"a": "much"}}, r"credit\.weights"),
        ({"sise": 3}, r"unknown key credit\.sise; did you mean credit\.size\?"),
        ({"task": "mine"}, r"unknown key credit\.task"),
        ({"_target_": "dqo.missing.Missing"}, r"credit\._target_=dqo\.missing\.Missing: cannot be imported"),
    ],
)  # fmt: skip
def test_wrong_values_are_named_with_their_whole_key(changes, message):
    with pytest.raises(ConfigError, match=message):
        arguments(node(**changes), "credit")


def test_a_missing_value_says_what_to_type():
    incomplete = {key: value for key, value in GOOD.items() if key != "size"}
    with pytest.raises(ConfigError, match=r"credit\.size has no value; type credit\.size="):
        arguments(OmegaConf.create(incomplete), "credit")


def test_flat_names_leaves_by_their_whole_key():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}
