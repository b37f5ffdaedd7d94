"""A worker process: reads a run folder's config.yaml and runs it. Started by ``dqo.run.launch``, never by hand.

python -m dqo.cli.worker train|sft RUN_DIR PARENT [LOCK]: the launcher's process id; the descriptor of the folder's
lock, which the first worker has, and none in a dry run. Of several workers the environment says which this is.
"""

import ctypes
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from pathlib import Path

if os.environ.get("DQO_TYPECHECK"):  # the test run's shape and type checks, which do not reach a process of its own
    from jaxtyping import install_import_hook

    install_import_hook("dqo", "beartype.beartype")

from dqo.cli.report import report
from dqo.config.resume import holds_run
from dqo.config.typed import load
from dqo.errors import ConfigError, StageError
from dqo.files.ownership import Ownership
from dqo.observe.visible import VisibleFormatter, visible_lines
from dqo.run.stopping import Stopped, Stopping

PR_SET_PDEATHSIG = 1


def main() -> None:
    command, folder, parent, lock = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    ownership = Ownership(folder, int(lock[0])) if lock else None
    stopping = Stopping()
    stopping.listen()
    _die_with(parent, stopping)
    _quiet_libraries()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("dqo").setLevel(logging.INFO)
    try:
        code = _run(command, _joined(folder), ownership, stopping)
    except Stopped as stopped:
        report(command, f"{stopped}{_how_to_go_on(command, ownership)}")
        code = 130 if os.environ.get("RANK", "0") == "0" else 0  # the first speaks for all
    sys.exit(code)


def _joined(folder: Path) -> Path:
    """Meet the other workers, if there are; the run's folder, as the first knows it."""
    from dqo import distributed  # torch: after the signals are listened to

    if not distributed.launched():
        return folder
    try:
        distributed.init()
        folder = distributed.broadcast(folder)
    except RuntimeError as error:
        report("train", f"another worker did not come, or is gone ({_cause(error)})")
        sys.exit(distributed.LOST_PEER)
    _log_of_its_own(folder)
    return folder


def _log_of_its_own(folder: Path) -> None:
    """What other workers than the first print would mix with what it prints."""
    from dqo import distributed

    if distributed.is_rank_0():
        return
    log = distributed.log_path(folder, distributed.rank())
    log.parent.mkdir(exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _run(command: str, folder: Path, ownership: Ownership | None, stopping: Stopping) -> int:
    from safetensors import SafetensorError

    from dqo import distributed
    from dqo.run import dry_run
    from dqo.run import sft as sft_run
    from dqo.run import training as train_run

    config, lines = load(folder / "config.yaml"), _size_of_metrics(folder)
    try:
        if ownership:
            ownership.sign()
        if config.dry_run:
            dry_run.run(config)
        elif command == "train":
            train_run.run(config, folder, ownership, stopping)
        elif distributed.is_rank_0():
            sft_run.run(config)
    except ConfigError as error:
        if _size_of_metrics(folder) == lines:  # nothing has begun: the launcher takes away what was written
            report(command, _cause(error))
            return 2
        report(command, f"{_cause(error)}{_how_to_go_on(command, ownership)}")
        return 1
    except (StageError, OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        kept = _kept_traceback(error, ownership)
        report(command, f"{_cause(error)}{kept}{_how_to_go_on(command, ownership)}")
        return 1
    except Exception as error:  # noqa: BLE001 - the end of the process: a fault of ours or of a user's class, shown whole
        if distributed.is_lost_peer(error):
            report(command, "another worker is gone")
            return distributed.LOST_PEER
        kept = _kept_traceback(error, ownership)
        print(visible_lines("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        report(command, f"{type(error).__name__}: {error}{kept}{_how_to_go_on(command, ownership)}")
        return 1
    return 0


def _size_of_metrics(folder: Path) -> int:
    """Bytes: whoever writes or forgets a line has begun."""
    file = folder / "metrics.jsonl"
    return file.stat().st_size if file.exists() else 0


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _kept_traceback(error: Exception, ownership: Ownership | None) -> str:
    """Into error.txt of the run folder, as long as that is ours and can be written."""
    if ownership is None:
        return ""
    file = ownership.folder / "error.txt"
    try:
        ownership.check()
        file.write_text(visible_lines("".join(traceback.format_exception(error))), "utf-8")
    except (OSError, StageError):
        return ""
    return f" (traceback: {file})"


def _how_to_go_on(command: str, ownership: Ownership | None) -> str:
    if command != "train" or ownership is None or not holds_run(ownership.folder):
        return ""
    folder = ownership.folder
    steps = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    newest = max((int(step) for step in steps if step.isdigit()), default=None)
    kept = "there is no checkpoint yet" if newest is None else f"the checkpoint after step {newest} is kept"
    return f"; {kept}; go on with dqo-train resume={shlex.quote(str(folder))}"


def _die_with(parent: int, stopping: Stopping) -> None:
    """No orphan goes on writing after a kill -9 of the launcher (Linux; elsewhere the launcher's signals must do). The
    signal stops it as a user's does: after the step, with a checkpoint."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # whoever adopts it may die, too, and a second signal would end it at once
        stopping.on_signal = lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)
    if os.getppid() != parent:  # it died before the line above
        raise SystemExit(f"the launcher, process {parent}, is gone")


def _quiet_libraries() -> None:
    """Progress bars and advice of libraries would tear the live view."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed|vllm")  # of their own calls


if __name__ == "__main__":
    main()
