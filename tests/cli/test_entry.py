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


WRONG = [
    (["credit=dppp"], r"credit=dppp: there is no such option; type credit=distance | dpp | dpp_correct | none"),
    (["alhpa=1"], "unknown key alhpa; did you mean alpha?"),
    (["credit.kernle=rbf"], "unknown key credit.kernle; did you mean credit.kernel?"),
    (["k=four"], "k: Value 'four' of type 'str' could not be converted to Integer; type k=INTEGER"),
    (["k=1"], "k=1: alpha=2 pays completions for differing"),
    (["k=2", "credit=dpp"], "k=2: "),
    (["alpha=-1"], "alpha=-1.0: a finite number of 0 or more is needed; type alpha=1.0"),
    (["alpha=nan"], "alpha=nan: a finite number of 0 or more is needed; type alpha=1.0"),
    (["credit=none"], "credit=none: "),
    (["credit.kernel=cosin"], "credit.kernel=cosin: allowed are "),
    (["rollout.top_p=high"], "rollout.top_p: "),
    (["reward=[check,math]"], "reward=[check,math]: one option of a group is taken; type reward=check"),
    (["nproc=2"], "nproc=2: "),
    (["resume=nowhere"], "resume=nowhere: no run is there"),
    (["task=jsonl", "task.path=missing.jsonl"], "missing.jsonl: No such file or directory; type task.path=FILE"),
    (["model=hf", "model.path=nowhere/model"], "model.path=nowhere/model"),
    (["resume=sweep/0_alpha=0,k=4"], "resume=sweep/0_alpha=0,k=4: no run is there"),
    (["--no-such-flag"], "--no-such-flag"),
    (["alpha"], "alpha"),
]


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


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    done = command(*arguments, "run_dir=run", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if not arguments[0].startswith("--"):
        assert len([line for line in done.stderr.splitlines() if not line.startswith("INFO: ")]) == 1
    assert not (tmp_path / "run").exists()
