"""Checkpoints: atomic, checksummed, safetensors and JSON, nothing pickled.

    checkpoints/step_00012/
      state.json       step, cursor, the state of Stateful stages, Python's and NumPy's generators, what the caller adds
      rng.safetensors  torch's generators
      learner/         whatever the learner saves
      manifest.json    sha256 of every other file; written last

A checkpoint is written under a name that starts with a dot and renamed when it is complete and on the disk: a killed
run leaves either the whole folder or none that ``latest`` would look at.
"""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file, save_file

from dqo import distributed
from dqo.errors import ConfigError, StageError
from dqo.stages import Stages, Stateful

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a restored run goes on. Example: step 12, cursor 48: the next step is 13 and draws prompt 48."""

    step: int
    cursor: int
    extra: Mapping[str, Any]  # as it was given to ``save``


class Checkpoints:
    """The checkpoints of one run, oldest removed once a newer one is in place."""

    def __init__(self, folder: Path, *, keep_last: int, parameters: int | None = None):
        """``parameters``: how many the learner saves, for an estimate of the size before the first save.

        Raises ConfigError for ``keep_last`` under 1.
        """
        if keep_last < 1:
            raise ConfigError(
                f"checkpoint.keep_last={keep_last}: at least one must be kept; type checkpoint.keep_last=1"
            )
        self.folder, self.keep_last, self.told = folder, keep_last, False
        if parameters is not None:
            self._tell(12 * parameters)  # weights and AdamW's two moments, fp32

    def save(self, step: int, cursor: int, stages: Stages, extra: Mapping[str, Any]) -> Path:
        """Write ``step_00012/`` and remove what ``keep_last`` no longer keeps. ``extra`` is JSON (metrics offset, wandb
        id …). All ranks call it; rank 0 writes everything but the learner's own files."""
        final, temporary = self.folder / f"step_{step:05d}", self.folder / f".step_{step:05d}"
        if distributed.rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "learner").mkdir(parents=True)
        distributed.largest(0)  # no rank writes before the folder is there
        stages.learner.save(temporary / "learner")
        distributed.largest(0)  # nor is it sealed before all have written
        if distributed.rank() == 0:
            _write_state(temporary, {"step": step, "cursor": cursor, "stages": _states(stages), "extra": dict(extra)})
            size = _seal(temporary)
            self._tell(size)
            self._replace(temporary, final)
        return final

    def latest(self) -> Path:
        """The newest checkpoint that is complete and whose checksums hold; logs which were passed over, and why.

        Raises ConfigError if there is none.
        """
        passed_over = []
        for path in reversed(self._present()):
            fault = _fault(path)
            if fault is None:
                for reason in passed_over:
                    log.warning("passed over checkpoint %s; going on from %s", reason, path.name)
                return path
            passed_over.append(f"{path.name}: {fault}")
        reasons = "; ".join(passed_over) or "there is none"
        raise ConfigError(
            f"resume={self.folder.parent}: no usable checkpoint in {self.folder} ({reasons}); "
            "type a run folder that has one, or leave resume out to start anew"
        )

    def _replace(self, temporary: Path, final: Path) -> None:
        if final.exists():  # a resumed run passes a step whose checkpoint was found broken
            shutil.rmtree(final)
        temporary.replace(final)
        _sync(self.folder)
        present = self._present()
        newest = present.index(final) + 1  # what stands behind it was passed over when this run resumed
        for path in [*present[: max(newest - self.keep_last, 0)], *present[newest:], *self.folder.glob(".step_*")]:
            shutil.rmtree(path)

    def _present(self) -> list[Path]:
        """By step, sound or not."""
        steps = {path: path.name.removeprefix("step_") for path in self.folder.glob("step_*")}
        return sorted((path for path, step in steps.items() if step.isdigit()), key=lambda path: int(steps[path]))

    def _tell(self, size: int) -> None:
        """Once: what the disk must hold, one checkpoint more than are kept while a new one is written."""
        if self.told:
            return
        self.told = True
        needed, home = size * (self.keep_last + 1), next(p for p in [self.folder, *self.folder.parents] if p.exists())
        free = shutil.disk_usage(home).free
        level = logging.INFO if free > needed else logging.WARNING
        log.log(
            level, "a checkpoint is about %s; checkpoint.keep_last=%d needs %s, %s are free",
            _bytes(size), self.keep_last, _bytes(needed), _bytes(free),
        )  # fmt: skip


def restore(path: Path, stages: Stages) -> Resumed:
    """Load a checkpoint into the stages and the global random generators.

    Raises ConfigError where the stages with a state are not those of the checkpoint: another option was chosen.
    """
    state = json.loads((path / "state.json").read_text())
    saved, stateful = state["stages"], dict(_stateful(stages))
    for name in sorted(saved.keys() ^ stateful.keys()):
        has, lacks = ("the checkpoint", "this run's") if name in saved else ("this run's", "the checkpoint's")
        raise ConfigError(f"resume: {has} {name} has a state and {lacks} {name} has none; resume with the same {name}=")
    stages.learner.load(path / "learner")
    for name, stage in stateful.items():
        stage.load_state_dict(saved[name])
    _set_generators(state["generators"], load_file(path / "rng.safetensors"))
    return Resumed(step=state["step"], cursor=state["cursor"], extra=state["extra"])


def _stateful(stages: Stages) -> Iterator[tuple[str, Stateful]]:
    """The stages with a state besides the learner, which saves itself."""
    for field in fields(stages):
        stage = getattr(stages, field.name)
        if field.name != "learner" and isinstance(stage, Stateful):
            yield field.name, stage


def _states(stages: Stages) -> dict[str, Any]:
    states = {}
    for name, stage in _stateful(stages):
        states[name] = stage.state_dict()
        try:
            json.dumps(states[name], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StageError(name, f"state_dict() is not JSON: {error}") from error
    return states


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    generators = {"python": random.getstate(), "numpy": numpy.random.get_state(legacy=True)}
    (folder / "state.json").write_text(
        json.dumps({**state, "generators": generators}, allow_nan=False, default=numpy.ndarray.tolist)
    )
    tensors = {"cpu": torch.get_rng_state()}
    tensors |= {f"cuda{i}": tensor for i, tensor in enumerate(torch.cuda.get_rng_state_all())}
    save_file(tensors, folder / "rng.safetensors")


def _set_generators(generators: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    version, internal, gauss = generators["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy.random.set_state(tuple(generators["numpy"]))
    torch.set_rng_state(tensors["cpu"])
    saved = [
        tensors[name] for name in sorted(tensors.keys() - {"cpu"}, key=lambda name: int(name.removeprefix("cuda")))
    ]
    if len(saved) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved)
    else:
        log.warning(
            "saved on %d GPUs, resumed on %d: their generators start anew", len(saved), torch.cuda.device_count()
        )


def _seal(folder: Path) -> int:
    """Write the manifest, bring everything to the disk and return its size in bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"files": sums}, indent=1))
    for path in [*files, manifest, *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        _sync(path)
    return sum(entry["bytes"] for entry in sums.values())


def _fault(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing."""
    manifest = folder / "manifest.json"
    try:
        files = json.loads(manifest.read_text())["files"]
    except FileNotFoundError:
        return "manifest.json is missing"
    except (ValueError, KeyError) as error:
        return f"manifest.json cannot be read ({error})"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, {entry['bytes']} were written"
        if _sha256(path) != entry["sha256"]:
            return f"{name} is corrupt (its checksum differs)"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(size: int) -> str:
    power = min(max(len(str(size)) - 1, 0) // 3, 3)
    return f"{size / 1000**power:.3g} {('B', 'KB', 'MB', 'GB')[power]}"
