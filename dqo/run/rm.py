"""``dqo-rm``: train a reward model from preferences or scored texts, and measure it."""

import hashlib
import importlib.util
import json
import logging
import math
import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dqo.config.schema import RmConfig
from dqo.errors import ConfigError
from dqo.files.atomic import replacing, replacing_folder
from dqo.models.classifier import Classifier
from dqo.models.conversation import Encoding
from dqo.models.folders import no_progress_bars
from dqo.run.build import make, make_device
from dqo.run.job import Job
from dqo.run.reward_modelling.base import Base, with_lora
from dqo.run.reward_modelling.data import Examples, Pair, Scored, read_examples
from dqo.run.reward_modelling.measures import pair_measures, score_measures
from dqo.run.reward_modelling.trainer import train

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Writes ``RUN_DIR/model``, ``metrics.jsonl`` (the training's lines) and, last, ``rm.json`` (the measures)."""
    assert isinstance(job.config, RmConfig)
    config, settings, device = job.config, job.config.rm, make_device(job.config)
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("dqo-rm needs the package accelerate; type pip install 'dqo-rl[rm]'")
    base = _base(config)
    learned, held_out, scale = _examples(config, base)
    _refuse_other_examples(job.folder / "examples.json", learned, held_out)
    torch.manual_seed(config.seed)  # of the new head
    model = base.load()
    job.begin()
    _note_examples(job.folder / "examples.json", learned, held_out)
    what = "pairs" if learned.are_pairs else "scored texts"
    log.info("dqo-rm: %s learns from %d %s, %d are held out", base.name, len(learned.rows), what, len(held_out.rows))
    if settings.lora_r:
        model = with_lora(
            model, rank=settings.lora_r, alpha=settings.lora_alpha,
            gradient_checkpointing=settings.gradient_checkpointing,
        )  # fmt: skip
    checkpoints = job.folder / "checkpoints"
    lines = train(
        model, base.tokenizer, learned.rows, settings=settings, checkpoint=config.checkpoint, device=device,
        seed=config.seed, folder=checkpoints,
    )  # fmt: skip
    folder = _save(model, base.tokenizer, job.folder / "model")
    measured = scale | _measure(folder, held_out, device)
    _write(job.folder, lines, measured)
    shutil.rmtree(checkpoints, ignore_errors=True)  # the model is written
    print(_summary(measured))
    train_with = f"reward=reward_model reward.path={folder} credit.gate=none"
    print(f"the reward model is in {folder}; next: dqo-train {train_with} task=…")


def _base(config: RmConfig) -> Base:
    source = make(config.model, "model", {})
    folder = getattr(source, "folder", None)
    if folder is None:
        raise ConfigError(f"model={source.name}: has no files to begin from; type model=hf model.path=FOLDER")
    return Base.read(folder, source.name)


def _examples(config: RmConfig, base: Base) -> tuple[Examples, Examples, dict[str, float]]:
    """To learn from and held out, and how scores were scaled: less the mean of those to learn from, in units of their
    standard deviation."""
    settings = config.rm
    if not settings.path:
        raise ConfigError(
            "rm.path has no value: what is to be learned from? type rm.path=FILE with chosen and rejected"
        )
    tokenizer, limit = base.tokenizer, base.longest(settings.max_length)
    examples = read_examples(settings.path, "rm.path", settings, tokenizer, limit=limit)
    if settings.eval_path is None:
        learned, held_out = examples.split(settings.held_out)
    else:
        learned, held_out = (
            examples,
            read_examples(settings.eval_path, "rm.eval_path", settings, tokenizer, limit=limit),
        )
    if learned.are_pairs != held_out.are_pairs:
        raise ConfigError("rm.eval_path: one file has pairs, the other scores; type rm.eval_path=null")
    return (learned, held_out, {}) if learned.are_pairs else _standardized(learned, held_out)


def _refuse_other_examples(file: Path, learned: Examples, held_out: Examples) -> None:
    """Raises ConfigError where a run that goes on would learn from other rows than it was started with, or from the
    same ones rendered otherwise."""
    if file.exists() and json.loads(file.read_text("utf-8")) != _about(learned, held_out):
        raise ConfigError(
            "resume: the rows of rm.path, or how the model's tokenizer renders them, are not those that the run was "
            "started with; put them back, or start a new run with run_dir=ANOTHER_FOLDER"
        )


def _note_examples(file: Path, learned: Examples, held_out: Examples) -> None:
    with replacing(file) as new:
        new.write_text(json.dumps(_about(learned, held_out), indent=2) + "\n", "utf-8")


def _about(learned: Examples, held_out: Examples) -> dict[str, int | str]:
    return {
        "learned": len(learned.rows), "held_out": len(held_out.rows),
        "sha256": hashlib.sha256(repr((learned.rows, held_out.rows)).encode("utf-8", "surrogatepass")).hexdigest(),
    }  # fmt: skip


def _standardized(learned: Examples, held_out: Examples) -> tuple[Examples, Examples, dict[str, float]]:
    scores = [row.score for row in learned.rows if isinstance(row, Scored)]
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    if deviation == 0:
        raise ConfigError(f"rm.path: all scores are {mean}; a reward model needs different ones")
    log.info("dqo-rm: scores have the mean %.4g and the standard deviation %.4g, which become 0 and 1", mean, deviation)

    def standardized(examples: Examples) -> Examples:
        rows = [row for row in examples.rows if isinstance(row, Scored)]
        return Examples(rows=tuple(replace(row, score=(row.score - mean) / deviation) for row in rows))

    return standardized(learned), standardized(held_out), {"score_mean": mean, "score_deviation": deviation}


def _save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    with replacing_folder(folder) as new, no_progress_bars():
        merged.save_pretrained(new)
        tokenizer.save_pretrained(new)
    return folder


def _measure(folder: Path, held_out: Examples, device: torch.device) -> dict[str, Any]:
    """The measures of the saved model, read as ``reward=reward_model`` reads it, in float32."""
    classifier = Classifier(str(folder), key="rm", device=device, dtype=torch.float32)

    def rewards(texts: Sequence[Encoding]) -> Tensor:
        return classifier.logits(texts)[:, 0]

    pairs = [row for row in held_out.rows if isinstance(row, Pair)]
    if pairs:
        return pair_measures(pairs, rewards([row.chosen for row in pairs]), rewards([row.rejected for row in pairs]))
    scored = [row for row in held_out.rows if isinstance(row, Scored)]
    return score_measures(scored, rewards([row.answer for row in scored]))


def _write(folder: Path, lines: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    with replacing(folder / "metrics.jsonl") as file:
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    with replacing(folder / "rm.json") as file:
        shown = {name: None if value != value else value for name, value in measured.items()}
        file.write_text(json.dumps(shown, indent=2) + "\n", "utf-8")


def _summary(measured: Mapping[str, Any]) -> str:
    length = f"reward and length of the answer correlate by {_shown(measured['length_correlation'], 2)}"
    if "pairs" in measured:
        lines = [
            f"held out, {measured['pairs']} pairs: accuracy {measured['accuracy']:.3f} (the longer answer: "
            f"{measured['longer']:.3f}), nll {measured['nll']:.3f}, calibration error "
            f"{measured['calibration_error']:.3f}, {length}"
        ]
        lines += [
            f"  σ {each['confidence']:.2f}: right {each['right']:.2f} of {each['pairs']}" for each in measured["bins"]
        ]
        return "\n".join(lines)
    return (
        f"held out, {measured['texts']} texts: correlation {_shown(measured['correlation'])}, of ranks "
        f"{_shown(measured['rank_correlation'])}, mse {measured['mse']:.3f} (the mean: 1), slope "
        f"{_shown(measured['slope'], 2)}, accuracy within a prompt {_shown(measured['accuracy'])}, {length}"
    )


def _shown(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
