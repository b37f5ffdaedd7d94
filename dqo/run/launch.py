"""From a resolved configuration to running workers, and to their end.

Workers are processes of their own, since Hydra runs the jobs of a sweep in one process, where a second process group or
engine cannot start. They read nothing but the run folder's ``config.yaml``, and the first shares the launcher's
ownership of it. Several start with torchrun's environment variables, by us and not by torch's elastic launcher: that
one ends all when one ends, with what it had still to write, and leaves them running when it is killed itself. On
several machines torchrun starts ``dqo-train`` once a worker, and each of those launches its one (docs/scaling.md).
"""

import contextlib
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dqo import distributed
from dqo.errors import ConfigError
from dqo.files.atomic import replacing
from dqo.files.ownership import Ownership, lock_of, own

# what a run would write over, by command: one of these makes a folder somebody's
HOLDS = {"train": ("config.yaml", "metrics.jsonl", "checkpoints", "policy"), "sft": ("metrics.jsonl", "policy")}
WRONG_INPUT = 2  # a worker's exit code that says it has done nothing
GRACE = 20.0  # seconds that the others have to notice it
POLL = 0.1  # seconds


def start(command: str, config: DictConfig, *, overrides: list[str], workers: int) -> int:
    """Own the run folder, write it, run its workers, return their exit code. Nothing stays behind of a dry run or of
    wrong input, which a worker reports before it trains. Raises ConfigError where the folder has an owner or holds a
    run."""
    if config.dry_run:
        with tempfile.TemporaryDirectory(prefix="dqo-dry-run-") as folder:
            OmegaConf.save(config, Path(folder) / "config.yaml")
            return _run(command, Path(folder), None, 1)
    folder = Path(config.run_dir)
    if distributed.launched() and os.environ.get("RANK") != "0":  # the first writes the folder, and says where it is
        return _run(command, folder, None, 1)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    had_lock = lock_of(folder).exists()
    try:
        ownership = own(folder)
        there = {*folder.iterdir()}  # by now nobody else adds to it
        try:
            return _run_owned(command, config, overrides, ownership, there, 1 if distributed.launched() else workers)
        finally:
            with contextlib.suppress(FileNotFoundError):  # the whole folder was taken away
                if not had_lock and {*folder.iterdir()} == there:  # nothing came of it
                    lock_of(folder).unlink()
            ownership.release()
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def _run_owned(
    command: str, config: DictConfig, overrides: list[str], ownership: Ownership, there: set[Path], count: int
) -> int:
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
    code = _run(command, folder, ownership, count)
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


def _run(command: str, folder: Path, ownership: Ownership | None, count: int) -> int:
    """Workers get our signals: Ctrl-C through the terminal's process group, the others from us. One that fails ends
    all."""
    running = [
        _worker(command, folder, ownership if rank == 0 else None, environment)
        for rank, environment in enumerate(_environments(count))
    ]
    with _forwarded(running):
        codes, culprit = _codes(running)
    code = codes[culprit]
    if code >= 0 and culprit == 0:  # it has said what was wrong
        return code
    cause = "; was it the memory?" if -code == signal.SIGKILL else ""
    name = f"worker {culprit}" if count > 1 else "the worker"
    how = f"was ended by {signal.Signals(-code).name}{cause}" if code < 0 else f"failed: {_last_words(folder, culprit)}"
    resumable = command == "train" and ownership and code != WRONG_INPUT  # else what was written is taken away
    go_on = f"; all of it: {distributed.log_path(folder, culprit)}" if culprit and code >= 0 and resumable else ""
    go_on += f"; go on with dqo-train resume={shlex.quote(str(folder))}" if resumable else ""
    shown_again = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which the live view had hidden
    print(f"{shown_again}dqo-{command}: {name} {how}{go_on}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _worker(
    command: str, folder: Path, ownership: Ownership | None, environment: Mapping[str, str]
) -> subprocess.Popen:
    descriptors = [ownership.descriptor] if ownership else []
    return subprocess.Popen(
        [sys.executable, "-m", "dqo.cli.worker", command, str(folder), *map(str, [os.getpid(), *descriptors])],
        pass_fds=descriptors,
        env={**os.environ, **environment},
    )


def _codes(running: list[subprocess.Popen]) -> tuple[list[int], int]:
    """Exit codes, once all have ended, and which worker they are to be explained by: the first that failed, not those
    that lost it. What does not notice within ``GRACE`` seconds, as a worker that waits for the lost one, is killed."""
    culprit, deadline, killed = None, math.inf, False
    while True:
        polled = [worker.poll() for worker in running]
        codes = [code for code in polled if code is not None]
        if len(codes) == len(running):
            break
        if culprit is None and len(running) > 1:
            culprit = next((rank for rank, code in enumerate(polled) if _failed(code)), None)
            deadline = math.inf if culprit is None else time.monotonic() + GRACE
        if time.monotonic() > deadline:
            killed = True
            for worker in running:
                worker.kill()
        time.sleep(POLL)
    if culprit is None or (not killed and _failed(codes[0])):  # the first has said what was wrong
        culprit = next((rank for rank, code in enumerate(codes) if _failed(code)), 0)
    return codes, culprit


def _failed(code: int | None) -> bool:
    return code not in (None, 0, distributed.LOST_PEER)


def _last_words(folder: Path, rank: int) -> str:
    """Of a worker that does not write to the terminal."""
    log = distributed.log_path(folder, rank)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def _forwarded(running: list[subprocess.Popen]) -> Iterator[None]:
    def forward(number: int, frame: object) -> None:
        if not distributed.launched():  # torchrun and its like signal our worker themselves; two would end it at once
            for worker in running:
                worker.send_signal(number)

    handlers = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            handlers[number] = signal.signal(number, forward)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _environments(count: int) -> list[dict[str, str]]:
    """Of each worker, what torchrun would set; nothing for one. Threads: the machine's, shared out."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, len(os.sched_getaffinity(0)) // count))
    shared = {
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": threads,
    }  # fmt: skip
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
