"""The table of commands, and a command of one's own as one row and one function."""

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from dqo.cli import __main__, worker
from dqo.cli.commands import COMMANDS, Command
from dqo.config import conf_dir
from dqo.config.typed import to_yaml
from dqo.run.stopping import Stopping
from tests.helpers.composing import composed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_row_has_a_configuration_an_entry_point_and_a_function(name):
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(conf_dir(), f"{name}.yaml").is_file()
    module, _, function = scripts[f"dqo-{name}"].partition(":")
    assert module == "dqo.cli.__main__" and callable(getattr(__main__, function))
    assert callable(pkgutil.resolve_name(COMMANDS[name].run))


SEEN = []


def own(job) -> None:
    SEEN.append(job)


def test_a_command_of_ones_own_is_called_with_a_frozen_configuration(tmp_path):
    row = Command(name="own", run=f"{__name__}:own", holds=(), resumable=False, multi_rank=False)
    (tmp_path / "config.yaml").write_text(to_yaml(composed("k=5")))
    assert worker.run(row, tmp_path, None, Stopping()) == 0
    (job,) = SEEN
    assert job.config.k == 5 and job.folder == tmp_path and not job.has_begun
    with pytest.raises(ValidationError, match="frozen"):
        job.config.k = 6


def test_a_module_call_without_a_command_says_what_to_type():
    done = subprocess.run([sys.executable, "-m", "dqo.cli"], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "usage: python -m dqo.cli train|sft|rm|eval|sample|serve|report KEY=VALUE" in done.stderr
    )


def test_without_hydra_one_line_says_what_to_install(tmp_path):
    """``pip install dqo-rl`` installs torch alone."""
    (tmp_path / "hydra.py").write_text("raise ModuleNotFoundError(\"No module named 'hydra'\", name='hydra')")
    code = "from dqo.cli.__main__ import train; train()"
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "dqo-train: needs the package hydra; type pip install 'dqo-rl[train]'\n"
