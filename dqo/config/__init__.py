"""Hydra's side of dqo: where the YAML lies, what its types are, whether it makes sense, and what is built from it."""

from pathlib import Path

from dqo.config import gpu

gpu.register()


def conf_dir() -> str:
    """The Hydra tree: inside the installed package, or beside it in a checkout."""
    installed = Path(__file__).parents[1] / "conf"
    return str(installed if installed.is_dir() else Path(__file__).parents[2] / "conf")
