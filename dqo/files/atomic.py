"""Files that are there whole or not at all, whatever ends the process that writes them."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW, OLD = ".new-", ".old-"  # what a killed process may leave behind, in front of the name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, with the same suffix; what was written there becomes ``path`` once it is on the disk, and is
    removed after an error. For one writer at a time."""
    new = path.with_name(NEW + path.name)
    try:
        yield new
        sync(new)
        new.replace(path)
        sync(path.parent)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder: an empty one that takes its place at the end, or is removed after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(NEW + folder.name)
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir()
    try:
        yield new
        follow_umask(new)
        sync_all(new)
        if folder.exists():
            remove(folder, by=new)
        else:
            new.replace(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove(folder: Path, *, by: Path | None = None) -> None:
    """A folder of this name is whole or gone, never half removed. ``by`` takes its place."""
    old = folder.with_name(OLD + folder.name)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    if by:
        try:
            by.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    shutil.rmtree(old)


def sweep(folder: Path) -> None:
    """Take away what a killed process left behind of ``replacing`` and ``remove``."""
    for path in [*folder.glob(f"{NEW}*"), *folder.glob(f"{OLD}*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sync(path: Path) -> None:
    """Bring a file or a folder's names to the disk: what is written after it was written after it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """A folder and everything in it."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def follow_umask(folder: Path) -> None:
    """Give every file the mode that the user's umask says; safetensors writes for its owner alone (0600)."""
    probe = folder / f"{NEW}mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
