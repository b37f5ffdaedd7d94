"""The YAML files name every key of their constructors, and build."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dqo.run.build import make
from dqo.stages import Credit

CONF = Path(__file__).parents[2] / "conf" / "credit"


@pytest.mark.parametrize("option", ["dpp", "distance", "none"])
def test_builds_from_its_yaml(option):
    assert isinstance(make(OmegaConf.load(CONF / f"{option}.yaml"), "credit", {}), Credit)  # type: ignore[arg-type]
