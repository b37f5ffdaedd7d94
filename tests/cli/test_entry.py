"""The console commands, as processes: what they print and what they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given, settings
from hypothesis import strategies as st

from dqo.cli import entry
from dqo.errors import ConfigError

ROOT = Path(__file__).parents[2]


def command(*arguments: str, cwd: Path, name: str = "train") -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{cwd}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dqo.cli", name, *arguments],
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
from dqo.cli.__main__ import train as main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
sys.exit(3 if "torch" in sys.modules else 0)
"""


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ConfigError, match="is not UTF-8; convert it"):
        entry._refuse_bytes(["k=4", "prompt=caf\udce9"])
    entry._refuse_bytes(["prompt=café"])


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
        "credit: constant, distance, dpp",
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
        ("task=gsm8k --cfg job", "--cfg job task=gsm8k"),
        ("task=gsm8k -c job --resolve -p task k=4", "-c job --resolve -p task task=gsm8k k=4"),
        ("--info k=4", "--info k=4"),
        ("k=4 -i searchpath", "-i searchpath k=4"),
        ("k=4 --config-d mine --multi", "--config-d mine --multi k=4"),
        ("k=4 --cfg=job -cn sft", "--cfg=job -cn sft k=4"),
    ],
)
def test_flags_may_stand_anywhere(typed, expected):
    assert entry._flags_first(typed.split()) == expected.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--info k=4", "--info all k=4"),
        ("-i -m k=4", "-i all -m k=4"),
        ("--info config k=4", "--info config k=4"),
        ("--cfg job k=4", "--cfg job k=4"),
    ],
)
def test_info_does_not_take_an_override_for_its_value(typed, expected):
    assert entry._with_values(typed.split()) == expected.split()


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=30)
VALUES = WORDS | st.text("ab'\"\\{}[](),=:$ %", min_size=1, max_size=12)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=VALUES)
def test_whatever_text_is_typed_for_a_key_hydra_reads_that_text_or_what_it_means_to_hydra(text):
    parser = OverridesParser.create()
    (override,) = parser.parse_overrides([entry._quoted(f"task.template={text}")])
    try:
        (plain,) = parser.parse_overrides([f"task.template={text}"])
    except OverrideParseException:
        assert override.value() == text
    else:
        assert override.get_value_string() == plain.get_value_string()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    arguments=st.lists(st.sampled_from(["k=4", "alpha=0,1", "task=gsm8k", "-m", "--cfg job", "-cd mine", "-p task"])),
)  # fmt: skip
def test_flags_come_first_and_nothing_is_lost_or_reordered(arguments):
    typed = [word for argument in arguments for word in argument.split()]
    ordered = entry._flags_first(typed)
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    flags = [word for argument in arguments if argument.startswith("-") for word in argument.split()]
    assert ordered == flags + overrides and entry._flags_first(ordered) == ordered


@pytest.mark.slow
def test_a_random_py_of_the_users_is_not_pythons_for_a_worker(tmp_path):
    """-m puts the working folder first in the path."""
    (tmp_path / "random.py").write_text("raise RuntimeError('the random.py of the user')\n")
    command = [sys.executable, "-m", "dqo.cli.worker", "train", str(tmp_path), str(os.getpid())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "the random.py of the user" not in done.stderr and "config.yaml" in done.stderr


@pytest.mark.slow
def test_a_class_in_the_folder_one_starts_in_is_found_by_the_installed_command(tmp_path):
    """docs/pipeline.md, "A stage of your own": the module beside the folder of YAML."""
    (tmp_path / "conf" / "credit").mkdir(parents=True)
    (tmp_path / "conf" / "credit" / "lengths.yaml").write_text("_target_: my_module.Lengths\nscale: no number\n")
    (tmp_path / "my_module.py").write_text("class Lengths:\n    def __init__(self, *, scale: float):\n        pass\n")
    # as a console script: no '' in the path
    code = "import sys; sys.path.pop(0); from dqo.cli.__main__ import train; train()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--config-dir", "conf", "credit=lengths"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert "credit.scale=no number: a number is needed" in done.stderr
