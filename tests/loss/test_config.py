"""Each YAML file of conf/loss sets every key of its constructors, and builds a loss."""

from pathlib import Path

import pytest

from dqo.references import References
from dqo.run.build import make
from dqo.stages import Loss
from tests.config.builders import checked
from tests.helpers.toy_stages import CountingTask

CONF = Path(__file__).parents[2] / "conf" / "loss"
OPTIONS = [path.stem for path in sorted(CONF.glob("*.yaml"))]
AVAILABLE = {"task": CountingTask(), "references": References(), "tokenizer": None, "reward": None}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_loss_is_built_from_its_yaml_file(option):
    node = checked(f"loss={option}", "beta=0.1", "learner.num_iterations=2").loss
    loss = make(node, "loss", AVAILABLE)
    assert isinstance(loss, Loss)
    assert len(set(loss.names)) == len(loss.names)
    assert bool(node["terms"]) == (option not in ("clip", "cispo", "dapo", "dr_grpo", "gspo", "sapo"))
