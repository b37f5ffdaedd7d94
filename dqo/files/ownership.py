"""Exclusive ownership of a run folder: an flock on ``RUN/.lock``, shared by the launcher and its first worker.

The lock belongs to the open file, which the worker inherits, and is released when the last process closes it. So a
worker whose launcher was killed still keeps other runs out until it exits, and no stale lock is left behind.
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
BEGUN = b"\nbegun\n"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what flock raises where a file system has no locks


class Ownership:
    """The exclusive right to write into a run folder. A worker that inherits ``descriptor``, the open lock file, shares
    it."""

    def __init__(self, folder: Path, descriptor: int):
        self.folder, self.descriptor = folder, descriptor
        os.set_inheritable(descriptor, False)  # only the worker inherits it, through Popen's pass_fds

    def sign(self) -> None:
        """Write process, host and time into the lock file, for the error message of a second run. The worker calls it
        again, since it may outlive the launcher."""
        text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def begin(self) -> None:
        """Note in the lock file that the run has begun: the folder holds something worth keeping. ``sign`` starts the
        file anew. Seen by every process that shares the lock."""
        os.pwrite(self.descriptor, BEGUN, os.fstat(self.descriptor).st_size)

    @property
    def has_begun(self) -> bool:
        """Whether ``begin`` was called, by any process that shares the lock, since the folder was owned."""
        return os.pread(self.descriptor, 1000, 0).endswith(BEGUN)

    def check(self) -> None:
        """Raises StageError if the folder was removed, moved or replaced during the run."""
        if not _is_open_file(self.descriptor, lock_of(self.folder)):
            raise StageError("run_dir", f"{self.folder} was removed, moved or replaced during the run")

    def release(self) -> None:
        """Close this process's descriptor; the lock itself is released with the last one."""
        os.close(self.descriptor)


def own(folder: Path) -> Ownership:
    """Ownership of a folder, which is created if missing. Raises ConfigError if another run owns the folder or it
    cannot be written."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock_of(folder), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(folder, descriptor)
                if _is_open_file(descriptor, lock_of(folder)):  # else its last owner has removed the folder: try again
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
    """The lock file of a run folder."""
    return folder / ".lock"


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace").partition("\n")[0] or "another process"
        raise ConfigError(
            f"run_dir={folder} is in use by {owner}; wait until it has ended, or type run_dir=ANOTHER_FOLDER"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("%s: no file locks on this file system; a second run in this folder will not be noticed", folder)


def _is_open_file(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is still the file that ``descriptor`` has open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
