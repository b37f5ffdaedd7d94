"""Resuming a run: which run, its saved command line, and the keys that may differ now. ``run.session`` picks the
checkpoint.

``resume=RUN``, ``resume=RUN/checkpoints/step_00020`` or ``resume=auto run_dir=RUN``. A run's own command line is kept
in ``overrides.yaml``; a folder holds a run once it has a ``config.yaml``, which is written last.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from dqo.config import conf_dir
from dqo.config.paths import has_moved
from dqo.config.schema import Config, EvalConfig, RmConfig
from dqo.config.typed import flat, plain
from dqo.errors import ConfigError

AUTO = "auto"
ENGINE = (
    "learner._target_",
    "learner.stage",
    "learner.offload_optimizer",
    "learner.offload_param",
    "learner.max_tokens_per_micro_batch",
)  # all learners read and write one checkpoint format; how a step is cut changes the rounding alone
# how a service is reached: keys beside ``patience``, which every client of a service has
REACHED_BY = ("url", "base_url", "token_variable", "concurrency", "batch", "retries", "timeout", "patience")
MAY_CHANGE = (
    "steps", "log.", "eval.", "checkpoint.", "nproc", "device", "run_dir", "resume", "objective", "dry_run", *ENGINE,
)  # fmt: skip
EVAL_MAY_CHANGE = (  # of dqo-eval: how the completions are measured, not how they were sampled
    "eval.metrics", "eval.nli", "eval.judge.", "eval.novelty.", "embed.", "controls", "nproc", "device", "run_dir",
    "resume", "dry_run",
)  # fmt: skip
OF_THE_FOLDER = ("run_dir", "resume", "dry_run")  # no part of what is trained
STARTED_IN = "hydra.runtime.cwd"  # saved with the overrides; Hydra sets it anew each time
DATE = "task.date"
HELD_OUT = "task.held_out"  # its default was 64 in task=jsonl of an older dqo
UNGATED = ("dqo.task.gsm8k.Gsm8k", "dqo.task.modebench.ModeBench")  # credit.gate was none by default in an older dqo
ADDED = (
    "advantage.credit_baseline",
    "advantage.normalize_credit",
    "checkpoint.export_dtype",
    "credit.embedding",
    "credit.reference_samples",
    "credit.reference_margin",
    "embed.long_texts",
    "embed.normalize_text",
    "embed.prompt",
    "learner.rounding",
    "eval.seed",
    "eval.metrics",
    "eval.judge.wordings",
    "eval.judge.concurrency",
    "eval.judge.retries",
    "eval.judge.timeout",
    "eval.judge.max_tokens",
    "eval.judge.patience",
    "credit.patience",
    "model.words_of",
    "critic._target_",
    "num_iterations",
    "num_mini_batches",
    "task.format",
    "task.streaming",
    "learner.num_mini_batches",
    "advantage.normalize_reward",
    "loss.sapo_temperature_neg",
    "loss.sapo_temperature_pos",
    "redraw_signal",
)  # keys that a run of an older dqo had not
FORMERLY = {  # what a class did before it had the key
    "embed.long_texts": ("dqo.embed.sentence.Sentence", "truncate"),
    "task.streaming": ("dqo.task.jsonl.Jsonl", "false"),
}
# a change of these gives a complete run something to do
AT_THE_END = ("steps", "eval.", "checkpoint.final", "checkpoint.export_dtype")


def holds_run(folder: Path) -> bool:
    """Whether a folder is a run's: config.yaml is written last."""
    return (folder / "config.yaml").exists()


def run_of(resume: str) -> Path:
    """The run's folder, from what was typed: the folder itself, or a checkpoint in it."""
    path = Path(resume)
    return path.parents[1] if checkpoint_of(resume) else path


def checkpoint_of(resume: str) -> str | None:
    """The name of the checkpoint that was typed; None: the newest one is meant."""
    path = Path(resume)
    return path.name if path.name.startswith("step_") and path.parent.name == "checkpoints" else None


def with_saved_overrides(arguments: list[str]) -> list[str]:
    """The arguments, with the saved overrides of the run that ``resume=`` names before them; what is typed now wins.
    Raises ConfigError if the folder holds no run, or ``run_dir`` is another."""
    resume, run_dir = _typed(arguments, "resume"), _typed(arguments, "run_dir")
    if resume in (None, "null"):
        return arguments
    if resume == AUTO:
        if run_dir is None:
            raise ConfigError("resume=auto: of which run? type run_dir=FOLDER beside it")
        if not holds_run(Path(run_dir)):
            return arguments
        run = Path(run_dir)
    else:
        run = run_of(resume)
        if run_dir is not None and holds_run(run) and Path(run_dir).resolve() != run.resolve():
            raise ConfigError(
                f"resume={resume} with run_dir={run_dir}: a run goes on in its own folder; leave run_dir out, or copy "
                f"the folder and type resume={run_dir}"
            )
    now = {argument.partition("=")[0] for argument in arguments}
    engine = _keys_of_another_learner(_typed(arguments, "learner"))
    saved = [text for text in _replayed(run) if text.partition("=")[0] not in now | engine]
    here = arguments.index(f"resume={resume}")  # among the overrides, which options may not part
    return arguments[:here] + saved + arguments[here:]


def _keys_of_another_learner(option: str | None) -> set[str]:
    """The keys of an engine that the learner typed now does not have, such as ``learner.stage``: what was saved of them
    says nothing about it."""
    file = Path(conf_dir(), "learner", f"{option}.yaml")
    if not file.is_file():  # none was typed, or the user's own
        return set()
    own = cast(DictConfig, OmegaConf.load(file))
    return {key for key in ENGINE if key.removeprefix("learner.") not in own and key != "learner._target_"}


def saved_overrides(run: Path) -> list[str]:
    """The run's command line without the keys that name its folder. Raises ConfigError if ``run`` holds no run."""
    file = run / "overrides.yaml"
    if not holds_run(run) or not file.exists():
        raise ConfigError(f"resume={run}: no run is there; type resume=FOLDER_OF_A_RUN")
    texts = cast(list[str], OmegaConf.to_container(OmegaConf.load(file)))  # not resolved: optim.steps=${steps}
    return [text for text in texts if text.partition("=")[0] not in (*OF_THE_FOLDER, STARTED_IN)]


def started_in(config: Config) -> Path | None:
    """The folder in which the resumed run was started; None for a new run, and for one of an older dqo, which did not
    save it."""
    return None if config.resume is None else _started_in(run_of(config.resume))


def date_of_start(config: Config) -> dict[str, str]:
    """``task.date``, which a chat template may print, where it is not typed: today, and for a resumed run the day on
    which it was started. Nothing for a task without that key, and for a run of an older dqo, which did not save it."""
    if config.task.get("date", "") is not None:
        return {}
    if config.resume is None:
        return {DATE: date.today().isoformat()}
    then = flat(plain(cast(DictConfig, OmegaConf.load(run_of(config.resume) / "config.yaml")))).get(DATE)
    return {} if then is None else {DATE: str(then)}


def _started_in(run: Path) -> Path | None:
    texts = cast(list[str], OmegaConf.to_container(OmegaConf.load(run / "overrides.yaml")))
    saved = next((text for text in texts if text.startswith(f"{STARTED_IN}=")), None)
    return None if saved is None else Path(saved.partition("=")[2])


def _replayed(run: Path) -> list[str]:
    """The saved overrides as the run has to be composed now: with the user's conf folders where a moved project has
    them, and with what a run of an older dqo had by a default that has changed."""
    saved, folder = saved_overrides(run), _started_in(run)
    if folder and not folder.is_dir():
        old, new = (f"'file://{place}/" for place in (folder, Path.cwd()))
        saved = [text.replace(old, new) if text.startswith("hydra.searchpath=") else text for text in saved]
    then = flat(plain(cast(DictConfig, OmegaConf.load(run / "config.yaml"))))
    task, typed = then.get("task._target_"), {text.partition("=")[0] for text in saved}
    former = then.get(HELD_OUT) if task == "dqo.task.jsonl.Jsonl" and HELD_OUT not in typed else None
    saved += [] if former is None else [f"{HELD_OUT}={former}"]
    if task in UNGATED and then.get("credit.gate") == "none" and "credit.gate" not in typed:
        saved.append("credit.gate=none")
    return saved + [
        f"{key}={value}"
        for key, (cls, value) in FORMERLY.items()
        if key not in then and then.get(f"{key.partition('.')[0]}._target_") == cls
    ]


def settle(config: DictConfig, *, sweep: bool) -> str | None:
    """Put the run's folder into ``run_dir`` and replace ``resume=auto`` by that folder or null; for ``auto``
    returns a message that says which."""
    if config.resume is None:
        return None
    config.resume = str(config.resume)  # not checked yet: a folder may be called 5
    if config.resume != AUTO:
        if sweep:
            raise ConfigError(f"resume={config.resume} in a sweep: type resume=auto, for each of its runs to go on")
        config.run_dir = str(run_of(config.resume))
        return None
    going_on = holds_run(Path(str(config.run_dir)))
    config.resume = config.run_dir if going_on else None
    return f"{config.run_dir} holds {'a run: going on with it' if going_on else 'no run yet: starting it'}"


def changes(config: DictConfig, resolved: Config) -> list[str]:
    """The keys whose values differ from the saved run's, as ``steps=200 (was 80)``; keys that name the folder left out.

    A file or folder may have moved: whether its content is the run's is found out by ``run.inputs``. Raises ConfigError
    naming each key that may not change (MAY_CHANGE).
    """
    now = flat(resolved.model_dump())
    then = flat(plain(cast(DictConfig, OmegaConf.load(run_of(str(resolved.resume)) / "config.yaml"))))
    texts = flat(plain(config))
    added = {key: value for key, value in now.items() if value is False or key in ADDED}  # that an older dqo had not
    then = added | then
    different = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    is_eval = isinstance(resolved, EvalConfig)
    if is_eval and "n" not in then:
        raise ConfigError(
            f"resume={resolved.resume} is a training run and no evaluation; type dqo-eval {resolved.resume} to measure "
            f"it, or dqo-train resume={resolved.resume}"
        )
    may_change = EVAL_MAY_CHANGE if is_eval else MAY_CHANGE
    fixed = [
        key
        for key in different
        if not (_is_of(key, may_change) or _follows(texts.get(key)) or _reaches_service(key, now))
    ]
    refused = [
        f"{key}={now.get(key)} (the run has {then.get(key)})"
        for key in fixed
        if not has_moved(key, now.get(key), then.get(key))
    ]
    if refused and is_eval:
        raise ConfigError(
            f"resume={resolved.resume} with {', '.join(refused)}: only how completions are measured may change "
            "(eval.metrics, embed, controls …); leave the rest out, or type another run_dir= in place of resume="
        )
    if refused:
        raise ConfigError(
            f"resume={resolved.resume} with {', '.join(refused)}: only steps, log, eval, checkpoint, nproc, device and "
            "the learner's engine and micro-batches may change; leave the rest out, or start a new run from model=hf "
            "model.path=RUN/policy"
        )
    return [f"{key}={now.get(key)} (was {then.get(key)})" for key in different if not _is_of(key, OF_THE_FOLDER)]


def is_complete(config: Config, changed: Sequence[str]) -> bool:
    """Whether nothing is left to do: summary.json, which a run writes last, has this number of steps, dqo-eval has
    written eval.json or dqo-rm rm.json; and no changed key asks for more."""
    if isinstance(config, EvalConfig):
        run = Path(config.run_dir)
        return not changed and _is_newer(run / "eval.json", run / "config.yaml")
    if isinstance(config, RmConfig):
        return (run_of(str(config.resume)) / "rm.json").exists()
    summary = run_of(str(config.resume)) / "summary.json"
    if checkpoint_of(str(config.resume)) or any(_is_of(text.partition("=")[0], AT_THE_END) for text in changed):
        return False
    return summary.exists() and json.loads(summary.read_text()).get("steps") == config.steps


def _is_newer(result: Path, settings: Path) -> bool:
    """Whether a result was written after its settings: a run that was resumed with other settings, and killed at once,
    still has the old result."""
    return result.exists() and result.stat().st_mtime_ns >= settings.stat().st_mtime_ns


def _typed(arguments: Sequence[str], key: str) -> str | None:
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{key}=")]
    return values[-1] if values else None


def _is_of(key: str, keys: Sequence[str]) -> bool:
    return any(key == each or (each.endswith(".") and key.startswith(each)) for each in keys)


def _reaches_service(key: str, keys: Mapping[str, Any]) -> bool:
    node, _, name = key.rpartition(".")
    return name in REACHED_BY and f"{node}.patience" in keys


def _follows(text: Any) -> bool:
    """Whether a value is an interpolation of a key that may change, as ``optim.steps: ${steps}`` is."""
    return isinstance(text, str) and text.startswith("${") and _is_of(text[2:-1], MAY_CHANGE)
