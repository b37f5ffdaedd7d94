from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dqo.config import conf_dir
from dqo.config.schema import Config
from dqo.config.typed import check, check_groups


@cache
def _composed(options: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("train", ["rollout=hf", "learner=torch_single", "run_dir=runs/none", *options])


def composed(*options: str, **changes: Any) -> DictConfig:
    """``dqo-train OPTIONS``, not checked; ``changes``: other values, ``eval__n`` for ``eval.n``."""
    config = _composed(options).copy()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def checked(*options: str, **changes: Any) -> Config:
    """The same, accepted by the schema and by the constructors."""
    config = check(composed(*options, **changes))
    check_groups(config)
    return config
