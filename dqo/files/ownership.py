"""One owner of a run folder: a lock on ``RUN/.lock``, held by the launcher and its workers together.

The lock (flock) belongs to the open file, which a worker inherits, and ends with the last process that has it open: a
worker whose launcher was killed keeps others out until it has stopped, and no lock is ever left behind.
"""

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from dqo.errors import ConfigError, StageError

log = logging.getLogger(__name__)
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Ownership:
    """The right to write into a run folder. ``descriptor``: the locked file, which a worker is handed."""

    def __init__(self, folder: Path, descriptor: int):
        self.folder, self.descriptor = folder, descriptor
        os.set_inheritable(descriptor, False)  # who else needs it is handed it by name

    def sign(self) -> None:
        """Say who, for the message that a second one gets: the worker once there is one, since it outlives others."""
        text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def check(self) -> None:
        """Raises StageError where the folder was removed, moved or replaced under a running run."""
        if not _is_at(self.descriptor, lock_of(self.folder)):
            raise StageError("run_dir", f"{self.folder} was taken away while the run was writing to it")

    def release(self) -> None:
        os.close(self.descriptor)


def own(folder: Path) -> Ownership:
    """Make the folder and own it. Raises ConfigError if it has an owner, or cannot be written."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock_of(folder), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _locked(folder, descriptor)
                if _is_at(descriptor, lock_of(folder)):  # else its last owner removed it, and the folder, in between
                    owned = Ownership(folder, descriptor)
                    owned.sign()
                    return owned
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        except OSError as error:
            raise ConfigError(
                f"run_dir={folder}: cannot be written ({error.strerror}); type run_dir=ANOTHER_FOLDER"
            ) from error


def lock_of(folder: Path) -> Path:
    return folder / ".lock"


def _locked(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise ConfigError(
            f"run_dir={folder} is in use by {owner}; wait until it has ended, or type run_dir=ANOTHER_FOLDER"
        ) from error
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        log.warning("%s: this file system has no locks; nothing keeps a second run out", folder)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
