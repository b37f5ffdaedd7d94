"""What xdist's processes share, so that each does not make it anew."""

import os
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def shared_folder(factory, name: str) -> Path:
    """A folder of the whole test session. ``factory``: pytest's tmp_path_factory."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


def made_once(factory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder into which one of the processes has put what ``make`` writes; the others wait for it."""
    folder = shared_folder(factory, name)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".made").exists():
            make(folder)
            folder.with_suffix(".made").touch()
    return folder
