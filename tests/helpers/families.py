"""The metrics that training and dqo-eval choose by default."""

from pathlib import Path

import yaml

from dqo.config import conf_dir


def _chosen(name: str) -> tuple[str, ...]:
    return tuple(yaml.safe_load(Path(conf_dir(), f"{name}.yaml").read_text())["eval"]["metrics"])


OF_TRAINING, OF_EVALUATION = _chosen("train"), _chosen("eval")
