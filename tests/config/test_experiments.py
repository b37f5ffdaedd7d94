"""Every preset of conf/experiment composes and passes all checks."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from dqo.config import conf_dir
from dqo.config.schema import Config
from dqo.config.typed import check, check_groups
from dqo.config.validate import validate

FILES = {path.stem: path for path in sorted(Path(conf_dir(), "experiment").glob("*.yaml"))}
PAPER = [name for name in FILES if name.startswith("paper_")]


def composed(*options: str) -> Config:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = check(compose("train", [*options, "run_dir=runs/NAME"]))
    check_groups(config)
    validate(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_a_preset_says_what_it_takes_and_composes(name):
    composed(f"experiment={name}")
    comments = " ".join(line.lstrip("# ") for line in FILES[name].read_text().splitlines() if line.startswith("#"))
    assert "GB" in comments
    assert "minute" in comments


@pytest.mark.parametrize("name", PAPER)
def test_what_is_known_of_the_paper_is_the_papers(name):
    config = composed(f"experiment={name}")
    assert (config.alpha, config.k, config.eval.n) == (1.0, 4, 10)
    assert config.credit["_target_"].endswith(".Dpp")
    assert (config.credit["kernel"], config.credit["gate"]) == ("cosine", "none")
    assert "MiniLM" in config.embed["model"]
    assert ("GRPO" in FILES[name].read_text()) == (config.advantage["_target_"].endswith(".Joint"))
    assert (config.critic["_target_"].endswith(".NoCritic")) == (name == "paper_gsm8k")
    assert "Not known, so ours" in FILES[name].read_text()


def test_the_quick_start_is_dqo_train_without_arguments():
    assert composed("experiment=quickstart") == composed()


def test_the_command_line_has_the_last_word():
    assert composed("experiment=paper_dolly", "critic=head", "k=8", "model.path=MINE").k == 8
