"""Each YAML file sets every key of its constructor, and builds a credit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dqo.run.build import make
from dqo.stages import Credit

CONF = Path(__file__).parents[2] / "conf" / "credit"


@pytest.mark.parametrize("option", ["dpp", "distance", "none"])
def test_a_credit_is_built_from_its_yaml_file(option):
    assert isinstance(make(OmegaConf.load(CONF / f"{option}.yaml"), "credit", {}), Credit)  # type: ignore[arg-type]
