"""Atomic writes: at whatever moment a process is killed, a file or folder is complete or absent, never partial."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEW, OLD = ".new-", ".old-"  # name prefixes of temporary files and folders; a killed process may leave them behind


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file name with the same suffix; on success the file is fsynced and renamed to ``path``, after
    an error it is removed. Only one process at a time may write to ``path``."""
    new = path.with_name(NEW + path.name)
    try:
        yield new
        fsync(new)
        new.replace(path)
        fsync(path.parent)
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it replaces ``folder``, after an error it is removed. Only one
    process at a time may write to ``folder``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(NEW + folder.name)
    shutil.rmtree(new, ignore_errors=True)  # left behind by a killed process
    new.mkdir()
    try:
        yield new
        apply_umask(new)
        fsync_tree(new)
        if folder.exists():
            remove(folder, successor=new)
        else:
            new.replace(folder)
        fsync(folder.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def remove(folder: Path, *, successor: Path | None = None) -> None:
    """Remove a folder, or replace it with the folder ``successor``. It is renamed first, so that a crash never leaves a
    half-removed folder under its name."""
    old = folder.with_name(OLD + folder.name)
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    if successor:
        try:
            successor.rename(folder)
        except OSError:
            old.rename(folder)
            raise
    shutil.rmtree(old)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left behind in ``folder``."""
    for path in [*folder.glob(f"{NEW}*"), *folder.glob(f"{OLD}*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fsync(path: Path) -> None:
    """fsync a file or folder, so that later writes cannot reach the disk before it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """fsync everything in a folder, then the folder itself."""
    for path in [*folder.rglob("*"), folder]:
        fsync(path)


def apply_umask(folder: Path) -> None:
    """Give every file in a folder the mode that the user's umask asks for; safetensors creates files with mode 0600."""
    probe = folder / f"{NEW}mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
