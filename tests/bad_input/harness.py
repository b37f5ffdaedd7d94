"""A case of the campaign, and two ways to run it: in this process, and as the process that a user starts."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from dqo.cli import entry, worker
from dqo.run import launch
from dqo.run.stopping import Stopping

ROOT = Path(__file__).parents[2]
TINY = ("model=tiny", "task=concepts", "rollout=fake", "embed=fake", "warm_start=false", "eval.prompts=2")
OTHERS = ("steps=1", "k=4", "prompts_per_step=2", "log.tensorboard=false", "run_dir=run")
IMPORTS = 5  # of transformers, that a user waits at most: launcher and worker each import it, and then look
NEVER = (ROOT / "conf").resolve()

Files = Mapping[str, str | bytes] | Callable[[Path], None]  # by name, or what makes them in the folder


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is typed where, and what the answer must say; ``process``: as a process of its own too."""

    typed: str  # the arguments, a space between two
    says: tuple[str, ...]  # parts of the message: what was got, what is allowed, what to type
    files: Files = field(default_factory=dict)
    more: tuple[str, ...] = ()  # arguments with spaces in them
    command: str = "train"
    process: bool = False

    @property
    def arguments(self) -> list[str]:
        """With a small run around it."""
        typed = [*self.typed.split(), *self.more]
        keys = {argument.partition("=")[0].lstrip("+~") for argument in typed}
        return [argument for argument in (*TINY, *OTHERS) if argument.partition("=")[0] not in keys] + typed

    def write(self, folder: Path) -> None:
        if callable(self.files):
            self.files(folder)
            return
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def in_process(case: Case, monkeypatch) -> int:
    """The command itself, but for one line: where it starts its worker as a process, the worker's function is called.
    Returns the exit code."""

    def run(command: str, folder: Path, ownership, count: int) -> int:
        return worker._run(command, folder, ownership, Stopping())

    monkeypatch.setattr(launch, "_run", run)
    monkeypatch.setattr(sys, "argv", [f"dqo-{case.command}", *case.arguments])
    GlobalHydra.instance().clear()
    try:
        entry.run(case.command)
    except SystemExit as ended:
        return int(ended.code or 0)
    raise AssertionError("it never returns")


def as_process(case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"dqo.cli.{case.command}", *case.arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, every folder; Python's own caches aside."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}
