"""One case of bad input, and two ways to run it: in this process, or as the process that a user starts."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.commands import run_in_process

ROOT = Path(__file__).parents[2]
TINY = ("model=tiny", "task=cities", "rollout=fake", "embed=fake", "warm_start=false", "eval.prompts=2")
OTHERS = ("steps=1", "k=4", "prompts_per_step=2", "log.tensorboard=false", "run_dir=run")
IMPORTS = 5  # times an import of transformers that a case may take; launcher and worker each import it

Files = Mapping[str, str | bytes] | Callable[[Path], None]  # content by name, or what writes them


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a user types in a folder with these files, and what the message must say. ``process``: test it also as a
    separate process."""

    typed: str  # the arguments, separated by spaces
    says: tuple[str, ...]  # parts of the message: what was got, what is allowed, what to type
    files: Files = field(default_factory=dict)
    more: tuple[str, ...] = ()  # arguments with spaces in them
    command: str = "train"
    process: bool = False

    @property
    def arguments(self) -> list[str]:
        """All arguments of the command: those of a tiny run, and ``typed``, which wins."""
        typed = [*self.typed.split(), *self.more]
        keys = {argument.partition("=")[0].lstrip("+~") for argument in typed}
        return [argument for argument in (*TINY, *OTHERS) if argument.partition("=")[0] not in keys] + typed

    def write(self, folder: Path) -> None:
        """Write the files of the case into ``folder``."""
        if callable(self.files):
            self.files(folder)
            return
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def in_process(case: Case, monkeypatch) -> int:
    """The exit code of the command, whose worker is a function call and not a process."""
    return run_in_process(case.command, case.arguments, monkeypatch)


def as_process(case: Case, folder: Path) -> subprocess.CompletedProcess[str]:
    """The ended process of the command, with its exit code and output."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dqo.cli", case.command, *case.arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | None]:
    """The content of every file by path, None for a folder; without Python's caches."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}
