"""From a resolved configuration to running workers: the one place where torchrun or SLURM would differ.

Workers are processes of their own, since Hydra runs the jobs of a sweep in one process, where a second process group or
engine cannot start. They read nothing but the run folder's ``config.yaml``.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


def start(command: str, config: DictConfig, *, overrides: list[str]) -> int:
    """Write the run folder, run its worker, return its exit code. Nothing stays behind of a dry run or of wrong input
    (exit code 2), which a worker reports before it writes."""
    if config.dry_run:
        with tempfile.TemporaryDirectory(prefix="dqo-dry-run-") as folder:
            OmegaConf.save(config, Path(folder) / "config.yaml")
            return _run(command, Path(folder))
    folder = Path(config.run_dir)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    if config.resume is None:
        OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml")
    code = _run(command, folder)
    if code == 2 and made:
        shutil.rmtree(folder)
        for parent in made[1:]:
            if not any(parent.iterdir()):
                parent.rmdir()
    return code


def _run(command: str, folder: Path) -> int:
    """The worker gets our signals: Ctrl-C through the terminal's process group, SIGTERM from us."""
    worker = subprocess.Popen([sys.executable, "-m", "dqo.cli.worker", command, str(folder)])
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: worker.terminate()),
    }
    try:
        code = worker.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code
