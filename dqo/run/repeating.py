"""Whether an error would come again if the run went on as it is: then no command to go on with is printed."""

from pathlib import Path
from typing import Any

from dqo.errors import ServiceError, StageError

FILE = "error.txt"
MARK = "after checkpoint "  # first line of error.txt: "after checkpoint 40", "after checkpoint None"
COMES_AGAIN = "a resumed run would come to the same error: mend what it names first"  # in place of a command
AGAIN = "this is the end that the run had before it was resumed, with no checkpoint in between"
OUTSIDE = ("OutOfMemoryError", "AcceleratorError", "SafetensorError", "EngineDeadError", "DistBackendError")


def may_pass(error: BaseException) -> bool:
    """Whether the error has a cause outside the run that may be gone next time: memory, disk, network, a killed
    process, a time limit. All else is computed from configuration, data and seeds, and comes again."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return any(map(_is_outside, causes))


def newest_checkpoint(folder: Path) -> int | None:
    """The step of the run's newest checkpoint; None: there is none."""
    steps = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    return max((int(step) for step in steps if step.isdigit()), default=None)


def keep(folder: Path, text: str) -> Path:
    """Write how the run ended to error.txt of its folder, for the user and for ``is_again``. Raises OSError."""
    file = folder / FILE
    file.write_text(f"{MARK}{newest_checkpoint(folder)}\n{text}", "utf-8")
    return file


def kept(folder: Path) -> str:
    """What ``keep`` wrote last; empty without it. A resumed run removes the file when it begins."""
    try:
        return (folder / FILE).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def is_again(before: str, folder: Path, text: str) -> bool:
    """Whether the run ended in this way before, by the last line of the text, and has saved nothing since then.
    ``before``: what was kept when the run was started."""
    mark, _, ended = before.partition("\n")
    return mark == f"{MARK}{newest_checkpoint(folder)}" and _last_line(ended) == _last_line(text)


def _is_outside(error: BaseException) -> bool:
    if isinstance(error, OSError | MemoryError) or type(error).__name__ in OUTSIDE:
        return True
    if isinstance(error, StageError):
        return isinstance(error, ServiceError) or error.stage == "run_dir"
    kind: Any = getattr(error, "kind", None)  # of a reward's SandboxError
    return kind in ("timeout", "exit") or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
