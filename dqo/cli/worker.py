"""A worker process: reads a run folder's config.yaml and runs it. Started by ``dqo.run.launch``, never by hand.

python -m dqo.cli.worker COMMAND RUN_DIR PARENT [LOCK]: the launcher's process id; the descriptor of the folder's lock,
which rank 0 has, and none in a dry run. The environment says which rank this is, as torchrun's does.
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # -m puts the working folder first: a user's random.py would win
    sys.path.append(sys.path.pop(0))

import ctypes
import logging
import os
import pkgutil
import shlex
import signal
import traceback
import warnings
from pathlib import Path

if os.environ.get("DQO_TYPECHECK"):  # the test run's shape and type checks, which do not reach a process of its own
    from jaxtyping import install_import_hook

    install_import_hook("dqo", "beartype.beartype")

from dqo.cli.commands import COMMANDS, Command
from dqo.cli.report import report
from dqo.config.resume import holds_run
from dqo.config.typed import load
from dqo.errors import ConfigError, StageError
from dqo.files.ownership import Ownership
from dqo.observe.visible import VisibleFormatter, visible_lines
from dqo.run.exit_codes import LOST_PEER, STOPPED, WRONG_INPUT
from dqo.run.job import Job
from dqo.run.repeating import AGAIN, COMES_AGAIN, is_again, keep, kept, may_pass, newest_checkpoint
from dqo.run.stopping import Stopped, Stopping
from dqo.run.workers import launched, log_path

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the command of ``sys.argv``; ends the process with an exit code."""
    command, folder, parent, lock = COMMANDS[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
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
        code = run(command, _joined(command, folder), ownership, stopping)
    except Stopped as stopped:
        report(command.name, f"{stopped}{_how_to_go_on(command, ownership)}")
        code = STOPPED if os.environ.get("RANK", "0") == "0" else 0  # rank 0 speaks for all
    sys.exit(code)


def run(command: Command, folder: Path, ownership: Ownership | None, stopping: Stopping) -> int:
    """Run a command on this rank and return its exit code; an error is reported in one line first."""
    from safetensors import SafetensorError

    from dqo import distributed

    job, before = None, kept(folder)
    try:
        job = Job(
            config=load(folder / "config.yaml", command.config_class()),
            folder=folder,
            ownership=ownership,
            stopping=stopping,
        )
        if ownership:
            ownership.sign()
        return _dispatch(command, job)
    except ConfigError as error:
        if job is None or not job.has_begun:  # the launcher removes what was written
            report(command.name, _cause(error))
            return WRONG_INPUT
        report(command.name, f"{_cause(error)}{_how_to_go_on(command, ownership, error, before)}")
        return 1
    except (StageError, OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        advice = _how_to_go_on(command, ownership, error, before)
        report(command.name, f"{_cause(error)}{_keep_traceback(error, ownership)}{advice}")
        return 1
    except Exception as error:  # noqa: BLE001 - the end of the process: a fault of ours or of a user's class, shown whole
        if distributed.is_lost_peer(error):
            report(command.name, "another worker is gone")
            return LOST_PEER
        advice, where = _how_to_go_on(command, ownership, error, before), _keep_traceback(error, ownership)
        print(visible_lines("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        report(command.name, f"{type(error).__name__}: {error}{where}{advice}")
        return 1


def _dispatch(command: Command, job: Job) -> int:
    """Check the stages' keys against their classes, then run the command, or its dry run. Returns its exit code."""
    from dqo.config.typed import check_groups

    check_groups(job.config)
    return pkgutil.resolve_name("dqo.run.dry_run:run" if job.config.dry_run else command.run)(job) or 0


def _joined(command: Command, folder: Path) -> Path:
    """The run's folder as rank 0 knows it, after meeting the other ranks, if there are any."""
    if not launched():
        return folder
    from dqo import distributed  # torch: after the signals are listened to

    try:
        distributed.init()
        folder = distributed.broadcast(folder)
    except RuntimeError as error:
        report(command.name, f"another worker did not come, or is gone ({_cause(error)})")
        sys.exit(LOST_PEER)
    if not distributed.is_rank_0():
        _write_to(log_path(folder, distributed.rank()))
    return folder


def _write_to(log: Path) -> None:
    """Send stdout and stderr to a file: the output of several ranks would mix."""
    log.parent.mkdir(exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def _cause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _keep_traceback(error: Exception, ownership: Ownership | None) -> str:
    """Write the traceback to error.txt of the run folder, if that is ours and can be written; says where it is."""
    if ownership is None:
        return ""
    try:
        ownership.check()
        file = keep(ownership.folder, _traceback(error))
    except (OSError, StageError):
        return ""
    return f" (traceback: {file})"


def _traceback(error: Exception) -> str:
    return visible_lines("".join(traceback.format_exception(error)))


def _how_to_go_on(
    command: Command, ownership: Ownership | None, error: Exception | None = None, before: str = ""
) -> str:
    """What to type next; after an error that would come again: to mend its cause. ``before``: how the run had ended
    when this process was started."""
    if not command.resumable:
        return ""
    if ownership is None:  # another rank: the launcher quotes it
        return "" if error is None or may_pass(error) else f"; {COMES_AGAIN}"
    if not holds_run(ownership.folder):
        return ""
    folder, saved = ownership.folder, command.keeps or _kept_checkpoint(ownership.folder)
    again = error is not None and is_again(before, folder, _traceback(error))
    if error is None or (may_pass(error) and not again):
        return f"; {saved}; go on with dqo-{command.name} resume={shlex.quote(str(folder))}"
    return f"; {saved}; {f'{AGAIN}; ' if again else ''}{COMES_AGAIN}"


def _kept_checkpoint(folder: Path) -> str:
    """Says which checkpoint a run goes on from."""
    newest = newest_checkpoint(folder)
    return "there is no checkpoint yet" if newest is None else f"the checkpoint after step {newest} is kept"


def _die_with(parent: int, stopping: Stopping) -> None:
    """No orphan goes on writing after a kill -9 of the launcher (Linux; elsewhere the launcher's signals must do). The
    parent-death signal stops the worker as a user's signal does: after the step, with a checkpoint."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        # the process that adopts this one may die, too, and a second signal would end it at once
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
