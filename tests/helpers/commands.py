"""A console command without its processes."""

import sys
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from dqo.cli import entry, worker
from dqo.cli.commands import COMMANDS
from dqo.run import launch
from dqo.run.stopping import Stopping


def type_in(script: str, arguments: list[str], monkeypatch) -> None:
    """Make this the command line. Hydra composes a configuration twice, the first time for ``hydra.mode`` alone. Here
    ``-m`` says which it is, as where that first time fails: 0.18 s a command in place of 0.30 s."""
    monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    GlobalHydra.instance().clear()


def run_in_process(command: str, arguments: list[str], monkeypatch) -> int:
    """The exit code of ``dqo-COMMAND ARGUMENTS``. It runs in this process: the worker is a function call, so that it
    imports nothing anew and the tests' type checks reach it."""

    def run(name: str, folder: Path, ownership, count: int, resumable: bool, stop: Path | None) -> int:
        return worker.run(COMMANDS[name], folder, ownership, Stopping())

    monkeypatch.setattr(launch, "_run", run)
    type_in(f"dqo-{command}", arguments, monkeypatch)
    try:
        entry.run(COMMANDS[command])
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("entry.run returned without SystemExit")
