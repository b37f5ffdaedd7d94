"""The configuration: where the YAML files are, their types and ranges, contradictions, and resuming."""

from pathlib import Path

from dqo.config import gpu, job_folder

GROUPS = ("model", "task", "rollout", "reward", "embed", "credit", "advantage", "loss", "critic", "optim", "learner")

gpu.register()
job_folder.register()


def conf_dir() -> str:
    """The folder of the YAML files: inside the installed package, or beside the package in a checkout."""
    installed = Path(__file__).parents[1] / "conf"
    return str(installed if installed.is_dir() else Path(__file__).parents[2] / "conf")
