"""Each YAML file sets every key of its constructor, and builds a credit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dqo.run.build import make
from dqo.stages import Credit
from tests.credit.builders import available

CONF = Path(__file__).parents[2] / "conf" / "credit"
OPTIONS = [path.stem for path in sorted(CONF.glob("*.yaml")) if "_target_" in OmegaConf.load(path)]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_credit_is_built_from_its_yaml_file(option):
    node = OmegaConf.load(CONF / f"{option}.yaml")
    assert isinstance(make(node, "credit", available()), Credit)  # type: ignore[arg-type]
