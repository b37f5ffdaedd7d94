"""The console commands, as processes: what they print and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dqo.cli import entry

ROOT = Path(__file__).parents[2]


def command(*arguments: str, cwd: Path, module: str = "dqo.cli.train") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{cwd}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


IMPORTS_TORCH = """
import sys
sys.argv = ["dqo-train", *{arguments}]
{plant}
from dqo.cli.train import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
sys.exit(3 if "torch" in sys.modules else 0)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
@pytest.mark.parametrize("plant", ["", "import torch"])
def test_help_and_configuration_do_not_import_torch(arguments, plant, tmp_path):
    code = IMPORTS_TORCH.format(arguments=arguments, plant=plant)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (3 if plant else 0), done.stderr


def test_help_lists_groups_keys_and_examples(tmp_path):
    text = command("--help", cwd=tmp_path).stdout
    for expected in (
        "credit: distance, dpp",
        "task: cities",
        "alpha 2.0",
        "task=gsm8k alpha=1.0 k=4",
        "-sc install=bash",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("alpha=1,2", "alpha=1,2"),
        ("reward=[check,math]", "reward=[check,math]"),
        ("resume=sweep/0_alpha=0,k=4", "resume='sweep/0_alpha=0,k=4'"),
        ("task.template=It's {{ text }}!", r"task.template='It\'s {{ text }}!'"),
        ("--multirun", "--multirun"),
    ],
)
def test_only_what_hydra_cannot_read_is_quoted(argument, expected):
    assert entry._quoted(argument) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("k=4 --config-dir mine credit=mine", "--config-dir mine k=4 credit=mine"),
        ("k=4 -cd a=b -m alpha=0,1", "-cd a=b -m k=4 alpha=0,1"),
        ("k=4 alpha=1", "k=4 alpha=1"),
    ],
)
def test_flags_may_stand_anywhere(typed, expected):
    assert entry._flags_first(typed.split()) == expected.split()


def test_a_class_in_the_folder_one_starts_in_is_found_by_the_installed_command(tmp_path):
    """docs/pipeline.md, "A stage of your own": the module beside the folder of YAML."""
    (tmp_path / "conf" / "credit").mkdir(parents=True)
    (tmp_path / "conf" / "credit" / "lengths.yaml").write_text("_target_: my_module.Lengths\nscale: no number\n")
    (tmp_path / "my_module.py").write_text("class Lengths:\n    def __init__(self, *, scale: float):\n        pass\n")
    code = (
        "import sys; sys.path.pop(0); from dqo.cli.train import main; main()"  # as a console script: no '' in the path
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--config-dir", "conf", "credit=lengths"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "credit.scale: Value 'no number'" in done.stderr
