"""A configuration composed in this process, as a command composes it."""

from hydra import compose, initialize_config_dir

from dqo.config import conf_dir
from dqo.config.schema import Config, EvalConfig, SampleConfig, ServeConfig
from dqo.config.typed import check

SMALL = (
    "model=tiny", "task=cities", "rollout=fake", "embed=fake", "credit=dpp", "warm_start=false", "steps=1",
    "prompts_per_step=2", "k=4", "eval.prompts=2", "eval.n=4", "device=cpu", "run_dir=run",
)  # fmt: skip


def composed(*overrides: str, base: tuple[str, ...] = SMALL) -> Config:
    """``dqo-train OVERRIDES`` around a small run without a model that samples."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return check(compose("train", [*base, *overrides]))


def composed_sample(*overrides: str) -> SampleConfig:
    """``dqo-sample tiny OVERRIDES`` with the small run's settings."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return check(compose("sample", [*SMALL, "policies=[{name:mine,path:tiny}]", *overrides]), SampleConfig)


def composed_evaluation(*overrides: str) -> EvalConfig:
    """``dqo-eval OVERRIDES`` with the encoder that needs no model."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return check(compose("eval", ["model=hf", "embed=fake", "device=cpu", *overrides]), EvalConfig)


def composed_serve(*overrides: str) -> ServeConfig:
    """``dqo-serve OVERRIDES`` with the small run's settings."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return check(compose("serve", [*SMALL, *overrides]), ServeConfig)


def with_class(config: Config, group: str, cls: type, **settings) -> Config:
    """The configuration with a class of one's own as the stage of a group."""
    node = {"_target_": f"{cls.__module__}.{cls.__qualname__}", **settings}
    return config.model_copy(update={group: node})
