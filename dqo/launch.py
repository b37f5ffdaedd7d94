"""From a resolved configuration to running workers: the one place where torchrun or SLURM would differ.

Workers are processes of their own, since Hydra runs the jobs of a sweep in one process, where a second process group or
engine cannot start. They read nothing but the run folder's ``config.yaml``, and share the launcher's ownership of it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dqo.atomic import replacing
from dqo.errors import ConfigError
from dqo.ownership import Ownership, lock_of, own

# what a run would write over, by command: one of these makes a folder somebody's
HOLDS = {"train": ("config.yaml", "metrics.jsonl", "checkpoints", "policy"), "sft": ("metrics.jsonl", "policy")}
WRONG_INPUT = 2  # a worker's exit code that says it has done nothing


def start(command: str, config: DictConfig, *, overrides: list[str]) -> int:
    """Own the run folder, write it, run its worker, return its exit code. Nothing stays behind of a dry run or of wrong
    input, which a worker reports before it trains. Raises ConfigError where the folder has an owner or holds a run."""
    if config.dry_run:
        with tempfile.TemporaryDirectory(prefix="dqo-dry-run-") as folder:
            OmegaConf.save(config, Path(folder) / "config.yaml")
            return _run(command, Path(folder), None)
    folder = Path(config.run_dir)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    had_lock = lock_of(folder).exists()
    try:
        ownership = own(folder)
        there = {*folder.iterdir()}  # by now nobody else adds to it
        try:
            return _run_owned(command, config, overrides, ownership, there)
        finally:
            with contextlib.suppress(FileNotFoundError):  # the whole folder was taken away
                if not had_lock and {*folder.iterdir()} == there:  # nothing came of it
                    lock_of(folder).unlink()
            ownership.release()
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def _run_owned(command: str, config: DictConfig, overrides: list[str], ownership: Ownership, there: set[Path]) -> int:
    """``there``: what the folder held before."""
    folder = ownership.folder
    if config.resume is None:
        _refuse_to_write_over(command, folder)
    texts = {  # what has the second is a run: it is written last
        folder / "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(overrides)),
        folder / "config.yaml": OmegaConf.to_yaml(config),
    }
    before = {path: path.read_text("utf-8") for path in texts if path in there}
    _write(texts)
    code = _run(command, folder, ownership)
    if code == WRONG_INPUT:
        _write(before)
        for path in {*folder.iterdir()} - there:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return code


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        with replacing(path) as new:
            new.write_text(text, "utf-8")


def _refuse_to_write_over(command: str, folder: Path) -> None:
    """Looked at by the folder's owner alone: of several that start at once, one finds it empty."""
    for name in HOLDS[command]:
        if (folder / name).exists():
            go_on = (
                f"type resume={folder} to go on, or another run_dir=" if command == "train" else "type another run_dir="
            )
            raise ConfigError(f"run_dir={folder} holds a run already ({name}); {go_on}")


def _run(command: str, folder: Path, ownership: Ownership | None) -> int:
    """The worker gets our signals: Ctrl-C through the terminal's process group, the others from us."""
    descriptors = [ownership.descriptor] if ownership else []
    worker = subprocess.Popen(
        [sys.executable, "-m", "dqo.cli.worker", command, str(folder), *map(str, [os.getpid(), *descriptors])],
        pass_fds=descriptors,
    )
    handlers = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            handlers[number] = signal.signal(number, lambda number, frame: worker.send_signal(number))
    try:
        code = worker.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if code >= 0:
        return code
    cause = "; was it the memory?" if -code == signal.SIGKILL else ""
    go_on = f"; go on with dqo-train resume={shlex.quote(str(folder))}" if command == "train" and ownership else ""
    shown_again = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which the live view had hidden
    print(
        f"{shown_again}dqo-{command}: the worker was ended by {signal.Signals(-code).name}{cause}{go_on}",
        file=sys.stderr,
    )
    return 128 - code
