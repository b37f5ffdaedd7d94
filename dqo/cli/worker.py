"""A worker process: reads a run folder's config.yaml and runs it. Started by ``dqo.launch``, never by hand.

python -m dqo.cli.worker train|sft RUN_DIR
"""

import ctypes
import logging
import os
import signal
import sys
import traceback
from pathlib import Path

if os.environ.get("DQO_TYPECHECK"):  # the test run's shape and type checks, which do not reach a process of its own
    from jaxtyping import install_import_hook

    install_import_hook("dqo", "beartype.beartype")

from dqo.errors import ConfigError, StageError

PR_SET_PDEATHSIG = 1


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    _die_with_parent()
    _quiet_libraries()
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("dqo").setLevel(logging.INFO)
    sys.exit(_run(command, folder))


def _run(command: str, folder: Path) -> int:
    from dqo.cli import dry_run, sft_run, train_run
    from dqo.config.typed import load

    config = load(folder / "config.yaml")
    job = dry_run.run if config.dry_run else {"train": train_run.run, "sft": sft_run.run}[command]
    try:
        job(config)
    except ConfigError as error:
        print(f"dqo-{command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except StageError as error:
        (folder / "error.txt").write_text("".join(traceback.format_exception(error)))
        print(f"dqo-{command}: {error} (traceback: {folder / 'error.txt'})", file=sys.stderr)
        return 1
    except train_run.Stopped as stopped:
        print(f"dqo-{command}: {stopped}", file=sys.stderr)
        return 130
    return 0


def _die_with_parent() -> None:
    """No orphan goes on writing after a kill -9 of the launcher (Linux; elsewhere the launcher's signals must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _quiet_libraries() -> None:
    """Progress bars and advice of libraries would tear the live view."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")


if __name__ == "__main__":
    main()
