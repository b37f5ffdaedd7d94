import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from dqo.config.schema import Config
from dqo.config.typed import check
from dqo.errors import ConfigError
from tests.config.builders import checked, composed

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("alpha", -1, "alpha=-1: 0 or more and at most 1e+06 is needed; type alpha=1.0"),
        ("alpha", float("nan"), "alpha=nan: a finite number is needed; type alpha=1.0"),
        ("alpha", True, "alpha=true: a number is needed; type alpha=1.0"),
        ("beta", float("inf"), "beta=inf: a finite number is needed; type beta=0.02"),
        ("k", 0, "k=0: 1 or more is needed; type k=8"),
        ("k", 1.5, "k=1.5: a whole number is needed; type k=8"),
        ("k", 4.0, "k=4.0: a whole number is needed; type k=8"),
        ("k", True, "k=true: a whole number is needed; type k=8"),
        ("k", None, "k=null: a whole number is needed; type k=8"),
        ("k", [1, 2], "k=[1,2]: a whole number is needed; type k=8"),
        ("steps", 0, "steps=0: 1 or more is needed; type steps=100"),
        ("steps", 2**63, f"steps={2**63}: 1 or more and at most {LARGEST} is needed; type steps=100"),
        ("seed", -1, "seed=-1: 0 or more is needed; type seed=0"),
        ("learning_rate", 0, "learning_rate=0: 1e-12 or more and at most 10 is needed; type learning_rate=1e-5"),
        ("temperature", 0, "temperature=0: 0.001 or more and at most 1000 is needed; type temperature=1.0"),
        ("max_completion_length", 0, "max_completion_length=0: 1 or more and at most 1000000 is needed; type max_"),
        ("ahead", 2, "ahead=2: 0 or more and at most 1 is needed; type ahead=0"),
        ("redraws", 101, "redraws=101: 0 or more and at most 100 is needed; type redraws=0"),
        ("nproc", 0, "nproc=0: 1 or more is needed, or null; type nproc=1"),
        ("device", "tpu", "device=tpu: allowed are auto | cpu | cuda"),
        ("log__live", "maybe", "log.live=maybe: true or false is needed; type log.live=true|false"),
        ("log__project", True, "log.project=true: text is needed; type log.project=TEXT"),
        ("eval__n", 0, "eval.n=0: 1 or more and at most 1000000 is needed; type eval.n=10"),
        ("checkpoint__keep_last", 0, "checkpoint.keep_last=0: 1 or more is needed; type checkpoint.keep_last=1"),
        ("checkpoint__keep_every", -1, "checkpoint.keep_every=-1: 0 or more is needed; type checkpoint.keep_every=0"),
        ("sft__learning_rate", "fast", "sft.learning_rate=fast: a number is needed; type sft.learning_rate=1e-4"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed(key, value, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        check(composed(**{key: value}))


def test_values_come_in_their_types():
    config = checked(k="4", alpha=2, log__project=5, log__live="off", nproc=None, resume=7)
    assert (config.k, config.alpha, config.log.project, config.log.live) == (4, 2.0, "5", False)
    assert isinstance(config.alpha, float) and config.nproc is None and config.resume == "7"


def test_nothing_in_it_changes():
    config: Config = checked()
    for section, name in ((config, "k"), (config.eval, "n")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 3)


def test_the_launchers_half_imports_neither_torch_nor_a_stage():
    code = """
import sys
from hydra import compose, initialize_config_dir
from dqo.config import conf_dir
assert "pydantic" not in sys.modules
from dqo.config.typed import check, to_yaml
from dqo.config.validate import validate
with initialize_config_dir(conf_dir(), version_base="1.3"):
    config = check(compose("train"))
validate(config)
to_yaml(config)
print([name for name in ("torch", "transformers", "dqo.stages") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
