"""A console command without its processes."""

import sys
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from dqo.cli import entry, worker
from dqo.cli.commands import COMMANDS
from dqo.run import launch
from dqo.run.stopping import Stopping


def run_in_process(command: str, arguments: list[str], monkeypatch) -> int:
    """The exit code of ``dqo-COMMAND ARGUMENTS``. It runs in this process: the worker is a function call, so that it
    imports nothing anew and the tests' type checks reach it."""

    def run(name: str, folder: Path, ownership, count: int, resumable: bool, stop: Path | None) -> int:
        return worker.run(COMMANDS[name], folder, ownership, Stopping())

    monkeypatch.setattr(launch, "_run", run)
    monkeypatch.setattr(sys, "argv", [f"dqo-{command}", *arguments])
    GlobalHydra.instance().clear()
    try:
        entry.run(COMMANDS[command])
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("entry.run returned without SystemExit")
