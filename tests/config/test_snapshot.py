"""The resolved configuration of each task, with and without a GPU, as ``--cfg job --resolve`` prints it.

A difference is a change in what users get. If it is meant, ``make snapshots`` writes tests/config/snapshots/ anew.
"""

import difflib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from hydra import compose, initialize_config_dir

from dqo.config import conf_dir, gpu
from dqo.config.typed import check, to_yaml

SNAPSHOTS = Path(__file__).parent / "snapshots"
TASKS = sorted(file.stem for file in Path(conf_dir(), "task").glob("*.yaml"))
MACHINES = ("cpu", "gpu")
NEEDED = {"jsonl": ["task.path=my.jsonl"]}  # what a task cannot do without


def snapshot(task: str, machine: str) -> Path:
    return SNAPSHOTS / f"{task}_{machine}.yaml"


def resolved(task: str, machine: str) -> str:
    """YAML of ``dqo-train task=TASK`` on a machine without a GPU, or with one and with every engine installed."""
    installed = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: True))
    with (
        patch.object(gpu, "has_gpu", lambda: machine == "gpu"),
        patch.object(gpu, "importlib", installed),
        initialize_config_dir(conf_dir(), version_base="1.3"),
    ):
        # the default name of the folder is the time
        config = compose("train", [f"task={task}", "run_dir=runs/NAME", *NEEDED.get(task, [])])
        return to_yaml(check(config))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("task", TASKS)
def test_the_resolved_configuration_is_the_one_kept(task, machine):
    file = snapshot(task, machine)
    kept, now = file.read_text("utf-8") if file.exists() else "", resolved(task, machine)
    difference = "\n".join(difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "now", lineterm="", n=0))
    assert kept == now, f"dqo-train task={task} on a {machine} machine; if it is meant: make snapshots\n{difference}"


def test_no_snapshot_is_left_over():
    assert {*SNAPSHOTS.iterdir()} == {snapshot(task, machine) for task in TASKS for machine in MACHINES}


def write() -> None:
    texts = {snapshot(task, machine): resolved(task, machine) for task in TASKS for machine in MACHINES}
    for old in SNAPSHOTS.iterdir():
        old.unlink()
    for file, text in texts.items():
        file.write_text(text, "utf-8")


if __name__ == "__main__":
    write()
