"""From a resolved configuration to running workers, and to their end.

Workers are processes of their own, since Hydra runs the jobs of a sweep in one process, where a second process group or
engine cannot start. They read nothing but the run folder's ``config.yaml``, and rank 0 shares the launcher's ownership
of the folder. The launcher imports no torch, unless it must count GPUs: only the workers pay for it.

Several workers get torchrun's environment variables from us and not from torch's elastic launcher: that one ends all
workers when one ends, with what they had still to write, and leaves them running when it is killed itself. On several
machines torchrun starts ``dqo-train`` once per worker, and each of those launches one worker (docs/scaling.md).
"""

import contextlib
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dqo.config.schema import Config
from dqo.config.typed import to_yaml
from dqo.errors import ConfigError
from dqo.files.atomic import replacing
from dqo.files.ownership import Ownership, lock_of, own
from dqo.run.exit_codes import FAILED, FRESH_PROCESS, LOST_PEER, SIGNALLED, WRONG_INPUT
from dqo.run.repeating import AGAIN, COMES_AGAIN, is_again, keep, kept
from dqo.run.stopping import SIGNALS
from dqo.run.workers import environments, launched, log_path

GRACE = 20.0  # seconds that the other workers have to notice that one has failed
POLL = 0.1  # seconds


def start(
    command: str,
    config: Config,
    *,
    overrides: Sequence[str],
    workers: int,
    holds: Sequence[str],
    resumable: bool,
    stop: Path | None = None,
    is_temporary: bool = False,
) -> int:
    """Own the run folder, write the configuration there, run the workers, return their exit code.

    A run that ``is_temporary`` (a dry run) leaves nothing behind, nor does one that is refused before it begins.
    ``holds``: a folder with one of these files is a run's and not written over; ``resumable``: whether ``resume=`` goes
    on with it; ``stop``: once this file exists, the run is stopped as by a signal.

    Raises ConfigError where the folder has an owner or holds a run.
    """
    if is_temporary:
        with tempfile.TemporaryDirectory(prefix="dqo-") as folder:
            (Path(folder) / "config.yaml").write_text(to_yaml(config), "utf-8")
            return _run(command, Path(folder), None, 1, False, stop)
    folder = Path(config.run_dir)
    if launched() and os.environ.get("RANK") != "0":  # rank 0 writes the folder, and tells where it is
        code = _run(command, folder, None, 1, resumable, stop)
        return 0 if code == FRESH_PROCESS else code  # rank 0 says how to go on
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    had_lock = lock_of(folder).exists()
    try:
        ownership = own(folder)
        there = {*folder.iterdir()}  # from here on nobody else adds to it
        try:
            if config.resume is None:
                _refuse_to_write_over(folder, holds, resumable)
            texts = {  # config.yaml marks the folder as a run's: it is written last
                folder / "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
                folder / "config.yaml": to_yaml(config),
            }
            count = 1 if launched() else workers
            code = _run_owned(ownership, texts, there, lambda: _run(command, folder, ownership, count, resumable, stop))
            return _for_launcher(command, folder) if code == FRESH_PROCESS else code
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the folder was removed or replaced
                if not had_lock and {*folder.iterdir()} == there:  # nothing came of it
                    lock_of(folder).unlink()
            ownership.release()
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()


def _run_owned(ownership: Ownership, texts: Mapping[Path, str], there: set[Path], run: Callable[[], int]) -> int:
    """Write the texts, run, and restore the folder if the run was refused before it began. ``there``: what the folder
    held before. Exit code 2 alone does not prove a refusal, since a user's class may exit with it: once the run has
    begun, nothing is removed, and the code is 1. FRESH_PROCESS where torchrun has to start the new workers."""
    before = {path: path.read_text("utf-8") for path in texts if path in there}
    _write(texts)
    while (code := run()) == FRESH_PROCESS and not launched():
        there, before = {*ownership.folder.iterdir()}, {}  # of which nothing is removed from now on
    if code == WRONG_INPUT and ownership.has_begun:
        return 1
    if code != WRONG_INPUT:
        return code
    _write(before)
    for path in {*ownership.folder.iterdir()} - there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return code


def _for_launcher(command: str, folder: Path) -> int:
    """Exit code of a run that needs fresh processes where torchrun starts them: new ones would meet in torchrun's
    store, and find the addresses of those before."""
    print(
        f"dqo-{command}: the next policy needs an engine of its own, in processes that torchrun starts; what was "
        f"sampled is kept; go on with dqo-{command} resume={shlex.quote(str(folder))}",
        file=sys.stderr,
    )
    return FAILED


def _write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        with replacing(path) as new:
            new.write_text(text, "utf-8")


def _refuse_to_write_over(folder: Path, holds: Sequence[str], resumable: bool) -> None:
    """Only the folder's owner looks: of several runs that start at once, one finds it empty."""
    for name in holds:
        if (folder / name).exists():
            go_on = f"type resume={folder} to go on, or another run_dir=" if resumable else "type another run_dir="
            raise ConfigError(f"run_dir={folder} holds a run already ({name}); {go_on}")


def _run(
    command: str, folder: Path, ownership: Ownership | None, count: int, resumable: bool, stop: Path | None
) -> int:
    """Exit code of the workers. They get our signals: Ctrl-C through the terminal's process group, the others from us.
    A worker that fails ends all."""
    before = kept(folder)
    running = [
        _worker(command, folder, ownership if rank == 0 else None, environment)
        for rank, environment in enumerate(environments(count))
    ]
    with _signals_forwarded(running, stop) as signals:
        codes, culprit = _exit_codes(running, signals.send)
    code = codes[culprit]
    if code >= 0 and culprit == 0:  # rank 0 has said itself what was wrong
        return code
    cause = "; was it the memory?" if -code == signal.SIGKILL else ""
    name = f"worker {culprit}" if count > 1 else "the worker"
    last = "" if code < 0 else _last_line(folder, culprit)
    how = f"was ended by {signal.Signals(-code).name}{cause}" if code < 0 else f"failed: {last}"
    stays = resumable and ownership and (code != WRONG_INPUT or ownership.has_begun)  # else the folder is restored
    go_on = f"; all of it: {log_path(folder, culprit)}" if culprit and code >= 0 and stays else ""
    if stays and code < 0:
        go_on += _note_end(folder, f"{name} {how}", before)
    if stays and not last.endswith(COMES_AGAIN):
        go_on += f"; go on with dqo-{command} resume={shlex.quote(str(folder))}"
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # the live view had hidden it
    print(f"{show_cursor}dqo-{command}: {name} {how}{go_on}", file=sys.stderr)
    return SIGNALLED - code if code < 0 else code


def _note_end(folder: Path, how: str, before: str) -> str:
    """Keep how the workers ended, in error.txt; says whether it is what was kept ``before``."""
    again = is_again(before, folder, how)
    with contextlib.suppress(OSError):  # a full disk
        keep(folder, how)
    return f"; {AGAIN}" if again else ""


def _worker(
    command: str, folder: Path, ownership: Ownership | None, environment: Mapping[str, str]
) -> subprocess.Popen:
    descriptors = [ownership.descriptor] if ownership else []
    return subprocess.Popen(
        [sys.executable, "-m", "dqo.cli.worker", command, str(folder), *map(str, [os.getpid(), *descriptors])],
        pass_fds=descriptors,
        env={**os.environ, **environment},
    )


def _exit_codes(
    running: list[subprocess.Popen], while_waiting: Callable[[], None] = lambda: None
) -> tuple[list[int], int]:
    """The workers' exit codes once all have ended, and the rank that caused the end: the first that failed, not one
    that only lost its peer. A worker that has not noticed the failure after ``GRACE`` seconds is killed: it may be
    waiting for the lost one in a collective."""
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
        while_waiting()
        time.sleep(POLL)
    if culprit is None or (not killed and _failed(codes[0])):  # rank 0 has said what was wrong
        culprit = next((rank for rank, code in enumerate(codes) if _failed(code)), 0)
    return codes, culprit


def _failed(code: int | None) -> bool:
    return code not in (None, 0, LOST_PEER, FRESH_PROCESS)


def _last_line(folder: Path, rank: int) -> str:
    """The last line that a rank which does not write to the terminal has logged."""
    log = log_path(folder, rank)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


class _Signals:
    """Hands signals on to the workers, which stop after their step."""

    def __init__(self, running: Sequence[subprocess.Popen], stop: Path | None):
        self._running, self._stop = running, stop
        self._before: dict[int, Any] = {}  # the handlers of this process
        self._noted: set[int] = set()  # signals that the workers are to get
        self._told = False  # the workers know

    def listen(self) -> None:
        """Note the signals, except those that are ignored already."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, a job in the background
                self._before[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Put the process's own handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def send(self) -> None:
        """Send the workers what was noted. Not at once: ``timeout`` and the like signal a launcher twice, and the
        workers as well (``stopping.SAME_REQUEST``)."""
        if self._stop is not None and not (self._told or self._noted) and self._stop.exists():
            self._noted.add(signal.SIGTERM)
        while self._noted:
            number = self._noted.pop()
            self._told = True
            for worker in self._running:
                worker.send_signal(number)

    def _note(self, number: int, frame: object) -> None:
        before = self._before[number]
        if callable(before) and before is not signal.default_int_handler:  # a sweep's
            before(number, frame)
        if number == signal.SIGINT:  # the terminal has sent it to the workers, too
            self._told = True
        elif not launched():  # torchrun and its like signal our worker themselves
            self._noted.add(number)


@contextlib.contextmanager
def _signals_forwarded(running: Sequence[subprocess.Popen], stop: Path | None) -> Iterator[_Signals]:
    signals = _Signals(running, stop)
    signals.listen()
    try:
        yield signals
    finally:
        signals.restore()
