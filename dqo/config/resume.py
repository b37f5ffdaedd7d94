"""Going on with a run: what it was started with, and what may differ now."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dqo.config.typed import flat, load, plain
from dqo.errors import ConfigError

MAY_CHANGE = ("steps", "log.", "eval.", "checkpoint.", "nproc", "device", "run_dir", "resume", "dry_run")


def saved_overrides(run: Path) -> list[str]:
    """The command line of the run, without what concerned its folder. Raises ConfigError if ``run`` holds no run."""
    file = run / "overrides.yaml"
    if not file.exists():
        raise ConfigError(f"resume={run}: no run is there (no {file.name}); type resume=FOLDER_OF_A_RUN")
    return [text for text in map(str, OmegaConf.load(file)) if text.partition("=")[0] not in ("run_dir", "resume")]


def refuse_changes(config: DictConfig, resolved: DictConfig) -> None:
    """Raises ConfigError naming each key whose value differs from the saved run's and may not (MAY_CHANGE)."""
    now = flat(plain(resolved))
    then = flat(plain(load(Path(resolved.resume) / "config.yaml")))
    texts = flat(plain(config))
    changed = [
        f"{key}={now.get(key)} (the run has {then.get(key)})"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not _allowed(key) and not _follows(texts.get(key))
    ]
    if changed:
        raise ConfigError(
            f"resume={resolved.resume} with {', '.join(changed)}: only steps, log, eval, checkpoint, nproc and device "
            "may change; leave the rest out, or start a new run from model=hf model.path=RUN/policy"
        )


def _allowed(key: str) -> bool:
    return any(key == allowed or (allowed.endswith(".") and key.startswith(allowed)) for allowed in MAY_CHANGE)


def _follows(text: Any) -> bool:
    """Whether a value is an interpolation of a key that may change, as ``optim.steps: ${steps}`` is."""
    return isinstance(text, str) and text.startswith("${") and _allowed(text[2:-1])
