"""Checkpoints: atomic folders of safetensors and JSON files with checksums; nothing is pickled.

    checkpoints/step_00012/
      state.json       step, cursor, state of the Stateful stages, versions, Python's and NumPy's random generators, and
                       the caller's own entries
      rng.safetensors  torch's random generators
      learner/         the files that the learner saves
      manifest.json    size and SHA-256 of every other file; written last

A checkpoint is written to a folder whose name starts with a dot, fsynced, and then renamed; before it is removed it is
renamed again. So a killed run leaves complete checkpoints and perhaps dot folders, which ``latest`` ignores.
"""

import hashlib
import json
import logging
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from safetensors.torch import load_file, save_file

from dqo import __version__, distributed
from dqo.capabilities import Stateful
from dqo.errors import ConfigError, StageError
from dqo.files.atomic import apply_umask, fsync, fsync_tree, remove, sweep
from dqo.stages import Stages

log = logging.getLogger(__name__)
VERSIONS = {"dqo": __version__, "torch": str(torch.__version__), "transformers": transformers.__version__}


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a restored run continues. Example: step 12, cursor 48: the next step is 13, and its first prompt is 48."""

    step: int
    cursor: int
    extra: Mapping[str, Any]  # as passed to ``save``


class Checkpoints:
    """The checkpoints of one run. Keeps the newest ``keep_last`` and, permanently, those whose step is a multiple of
    ``keep_every`` (0: none)."""

    def __init__(self, folder: Path, *, keep_last: int, keep_every: int = 0):
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self._saved: Path | None = None

    def announce(self, size: int, *, every: int, steps: int, policy: int) -> None:
        """Log the disk space that all checkpoints of a run need at most; a warning if less is free.

        ``size``: bytes of one checkpoint; ``policy``: bytes of the exported model, 0 without an export. While a
        checkpoint is written there is one more than ``keep_last``.
        """
        numbers = {*range(every, steps + 1, every), steps}
        kept = min(self.keep_last + 1, len(numbers)) + sum(self._is_permanent(step) for step in numbers)
        needed, home = kept * size + policy, next(p for p in [self.folder, *self.folder.parents] if p.exists())
        free = shutil.disk_usage(home).free
        log.log(
            logging.INFO if free > needed else logging.WARNING,
            "disk space: at most %d checkpoints of about %s%s, %s in total; %s are free",
            kept, _bytes(size), f" and a policy of {_bytes(policy)}" if policy else "", _bytes(needed), _bytes(free),
        )  # fmt: skip

    def save(self, step: int, cursor: int, stages: Stages, extra: Mapping[str, Any]) -> Path:
        """The folder ``step_00012/``, written unless this process has just saved that step; older checkpoints that are
        no longer kept are removed.

        Collective on the main channel: rank 0 writes everything but the learner's own files. ``extra`` holds JSON
        values (the offset of metrics.jsonl …). Raises OSError or SafetensorError if a file cannot be written; the
        older checkpoints are untouched then.
        """
        final, temporary = self.folder / f"step_{step:05d}", self.folder / f".step_{step:05d}"
        if final == self._saved:
            return final
        try:
            if distributed.rank() == 0:
                self.folder.mkdir(exist_ok=True)  # without parents: a deleted run folder must not come back
                shutil.rmtree(temporary, ignore_errors=True)
                (temporary / "learner").mkdir(parents=True)
            distributed.barrier()  # the folder exists before any rank writes into it
            stages.learner.save(temporary / "learner")
            distributed.barrier()  # all ranks have written before the manifest is
            if distributed.rank() == 0:
                _write_state(
                    temporary, {"step": step, "cursor": cursor, "stages": _states(stages), "extra": dict(extra)}
                )
                _write_manifest(temporary)
                self._install(temporary, final)
            distributed.barrier()  # the checkpoint is complete before any rank continues or exits
        finally:  # after an error: frees the space on a full disk
            if distributed.rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        self._saved = final
        return final

    def latest(self) -> Path | None:
        """The newest undamaged checkpoint, None if there are no checkpoints. Logs every newer one that is skipped, with
        the damage found.

        Raises ConfigError if there are checkpoints and all of them are damaged.
        """
        skipped = []
        for path in reversed(self._all()):
            damage = _damage(path)
            if damage is None:
                for reason in skipped:
                    log.warning("skipped checkpoint %s; going on from %s", reason, path.name)
                return path
            skipped.append(f"{path.name}: {damage}")
        if not skipped:
            return None
        raise ConfigError(
            f"resume={self.folder.parent}: no usable checkpoint in {self.folder} ({'; '.join(skipped)}); "
            "type resume=ANOTHER_RUN, or start again with run_dir=NEW_FOLDER and no resume="
        )

    def named(self, name: str) -> Path:
        """The checkpoint of this name. Raises ConfigError if it is missing or damaged."""
        names = [path.name for path in self._all()]
        problem = _damage(self.folder / name) if name in names else "does not exist"
        if problem:
            raise ConfigError(
                f"resume={self.folder / name}: {problem}; the run has the checkpoints: {', '.join(names) or 'none'}; "
                f"type resume={self.folder.parent} for the newest undamaged one"
            )
        return self.folder / name

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints after ``step``, which a run resumed there writes again, and the leftovers of a killed
        run."""
        if self.folder.exists():
            for path in [path for path in self._all() if _step(path) > step]:
                remove(path)
            self._sweep()

    def _install(self, temporary: Path, final: Path) -> None:
        if final.exists():
            remove(final, successor=temporary)
        else:
            temporary.rename(final)
        fsync(self.folder)
        fsync(self.folder.parent)
        up_to_now = [path for path in self._all() if _step(path) <= _step(final)]
        for path in up_to_now[: -self.keep_last]:
            if not self._is_permanent(_step(path)):
                remove(path)
        self.forget_after(_step(final))

    def _is_permanent(self, step: int) -> bool:
        return bool(self.keep_every) and step % self.keep_every == 0

    def _sweep(self) -> None:
        sweep(self.folder)
        for path in self.folder.glob(".step_*"):
            shutil.rmtree(path)

    def _all(self) -> list[Path]:
        """All checkpoints ordered by step, damaged ones included."""
        numbered = [path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(numbered, key=_step)


def saved_extra(path: Path) -> Mapping[str, Any]:
    """What a checkpoint's ``save`` got as ``extra``: ``restore`` returns it too, but needs the stages."""
    return json.loads((path / "state.json").read_text())["extra"]


def restore(path: Path, stages: Stages) -> Resumed:
    """Loads a checkpoint into the stages and returns where to continue; ``restore_generators`` loads the rest.

    All ranks call it: the learner's ``load`` is a collective. Logs a warning if the checkpoint was written by other
    versions of dqo, torch or transformers: the run continues, but not bit for bit. Raises ConfigError if a stage has a
    state only in the checkpoint or only in this run: another option was chosen. An empty state is none.
    """
    state = json.loads((path / "state.json").read_text())
    saved, stateful = state["stages"], dict(_stateful(stages))
    for name in sorted(saved.keys() | stateful.keys()):
        has, lacks = ("the checkpoint's", "this run's") if saved.get(name) else ("this run's", "the checkpoint's")
        if (name not in stateful) if saved.get(name) else (name in stateful and stateful[name].state_dict()):
            raise ConfigError(f"resume: {has} {name} has a state and {lacks} has none; resume with the same {name}=")
    for name, version in state["versions"].items():
        if version != VERSIONS.get(name):
            log.warning("saved with %s %s, resumed with %s: numbers may differ", name, version, VERSIONS.get(name))
    stages.learner.load(path / "learner")
    for name, stage in stateful.items():
        if name in saved:
            stage.load_state_dict(saved[name])
    return Resumed(step=state["step"], cursor=state["cursor"], extra=state["extra"])


def restore_generators(path: Path) -> None:
    """Set the global random generators to the checkpoint's state. Call it right before the next step: building a run
    draws from them."""
    generators = json.loads((path / "state.json").read_text())["generators"]
    _set_generators(generators, load_file(path / "rng.safetensors"))


def _stateful(stages: Stages) -> Iterator[tuple[str, Stateful]]:
    """Name and stage of each Stateful stage, without the learner, which saves itself."""
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
    whole = {**state, "versions": VERSIONS, "generators": generators}
    (folder / "state.json").write_text(json.dumps(whole, allow_nan=False, default=numpy.ndarray.tolist))
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
            "saved on %d GPUs, resumed on %d: the GPUs' random generators are not restored",
            len(saved),
            torch.cuda.device_count(),
        )


def _write_manifest(folder: Path) -> None:
    """Write manifest.json, then fsync the whole checkpoint."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (folder / "manifest.json").write_text(json.dumps({"files": sums}, indent=1))
    apply_umask(folder)
    fsync_tree(folder)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if it matches its manifest."""
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


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _bytes(size: int) -> str:
    power = min(max(len(str(size)) - 1, 0) // 3, 3)
    return f"{size / 1000**power:.3g} {('B', 'KB', 'MB', 'GB')[power]}"
