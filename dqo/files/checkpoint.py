"""Checkpoints: atomic, checksummed, safetensors and JSON, nothing pickled.

    checkpoints/step_00012/
      state.json       step, cursor, the state of Stateful stages, versions, Python's and NumPy's generators, what the
                       caller adds
      rng.safetensors  torch's generators
      learner/         whatever the learner saves
      manifest.json    sha256 of every other file; written last

A checkpoint is written under a name that starts with a dot and renamed when it is complete and on the disk; it is
renamed again before it is removed. A killed run leaves either the whole folder or none that ``latest`` would look at.
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
from dqo.errors import ConfigError, StageError
from dqo.files.atomic import follow_umask, remove, sweep, sync, sync_all
from dqo.stages import Stages, Stateful

log = logging.getLogger(__name__)
VERSIONS = {"dqo": __version__, "torch": str(torch.__version__), "transformers": transformers.__version__}


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a restored run goes on. Example: step 12, cursor 48: the next step is 13 and draws prompt 48."""

    step: int
    cursor: int
    extra: Mapping[str, Any]  # as it was given to ``save``


class Checkpoints:
    """The checkpoints of one run: the newest ``keep_last``, and for good each whose step is a multiple of
    ``keep_every`` (0: none)."""

    def __init__(self, folder: Path, *, keep_last: int, keep_every: int = 0):
        """Raises ConfigError for ``keep_last`` under 1 or ``keep_every`` under 0."""
        if keep_last < 1:
            raise ConfigError(
                f"checkpoint.keep_last={keep_last}: at least one must be kept; type checkpoint.keep_last=1"
            )
        if keep_every < 0:
            raise ConfigError(
                f"checkpoint.keep_every={keep_every}: steps are needed, or 0; type checkpoint.keep_every=0"
            )
        self.folder, self.keep_last, self.keep_every = folder, keep_last, keep_every
        self._saved: Path | None = None

    def announce(self, size: int, *, every: int, steps: int, policy: int) -> None:
        """Say before the first save what the disk must hold at most, in bytes: ``size`` a checkpoint, ``policy`` the
        export; one checkpoint more than are kept while a new one is written."""
        numbers = {*range(every, steps + 1, every), steps}
        kept = min(self.keep_last + 1, len(numbers)) + sum(self._for_good(step) for step in numbers)
        needed, home = kept * size + policy, next(p for p in [self.folder, *self.folder.parents] if p.exists())
        free = shutil.disk_usage(home).free
        log.log(
            logging.INFO if free > needed else logging.WARNING,
            "on disk: %d checkpoints of about %s%s, %s in all; %s are free",
            kept, _bytes(size), f" and a policy of {_bytes(policy)}" if policy else "", _bytes(needed), _bytes(free),
        )  # fmt: skip

    def save(self, step: int, cursor: int, stages: Stages, extra: Mapping[str, Any]) -> Path:
        """Write ``step_00012/``, unless this process has, and remove what is kept no longer. ``extra`` is JSON (the
        offset of metrics.jsonl …). All ranks call it; rank 0 writes everything but the learner's own files.

        Raises OSError or SafetensorError where it cannot be written; the checkpoints before are untouched then.
        """
        final, temporary = self.folder / f"step_{step:05d}", self.folder / f".step_{step:05d}"
        if final == self._saved:
            return final
        try:
            if distributed.rank() == 0:
                self.folder.mkdir(exist_ok=True)  # not its parents: a run folder that vanished is not made again
                shutil.rmtree(temporary, ignore_errors=True)
                (temporary / "learner").mkdir(parents=True)
            distributed.barrier()  # no rank writes before the folder is there
            stages.learner.save(temporary / "learner")
            distributed.barrier()  # nor is it sealed before all have written
            if distributed.rank() == 0:
                _write_state(
                    temporary, {"step": step, "cursor": cursor, "stages": _states(stages), "extra": dict(extra)}
                )
                _seal(temporary)
                self._install(temporary, final)
            distributed.barrier()  # nobody goes on, or ends, before it is there
        finally:  # after an error: a full disk gets its room back
            if distributed.rank() == 0:
                shutil.rmtree(temporary, ignore_errors=True)
        self._saved = final
        return final

    def latest(self) -> Path | None:
        """The newest checkpoint that is complete and whose checksums hold; logs which were passed over, and why. None:
        there is none at all.

        Raises ConfigError if there are some and all are damaged.
        """
        passed_over = []
        for path in reversed(self._present()):
            fault = _fault(path)
            if fault is None:
                for reason in passed_over:
                    log.warning("passed over checkpoint %s; going on from %s", reason, path.name)
                return path
            passed_over.append(f"{path.name}: {fault}")
        if not passed_over:
            return None
        raise ConfigError(
            f"resume={self.folder.parent}: no usable checkpoint in {self.folder} ({'; '.join(passed_over)}); "
            "type another run, or leave resume out and type another run_dir to start anew"
        )

    def named(self, name: str) -> Path:
        """That checkpoint and no other. Raises ConfigError if it is missing or damaged."""
        present = [path.name for path in self._present()]
        fault = _fault(self.folder / name) if name in present else "is not there"
        if fault:
            others = ", ".join(present) or "none"
            raise ConfigError(
                f"resume={self.folder / name}: {fault}; there are {others}: type resume={self.folder.parent} for the "
                "newest that is sound"
            )
        return self.folder / name

    def forget_after(self, step: int) -> None:
        """Remove what a run that goes on from ``step`` will write again, and what a killed one left half-written."""
        if self.folder.exists():
            for path in [path for path in self._present() if _step(path) > step]:
                remove(path)
            self._sweep()

    def _install(self, temporary: Path, final: Path) -> None:
        if final.exists():
            remove(final, by=temporary)
        else:
            temporary.rename(final)
        sync(self.folder)
        sync(self.folder.parent)
        up_to_now = [path for path in self._present() if _step(path) <= _step(final)]
        for path in up_to_now[: -self.keep_last]:
            if not self._for_good(_step(path)):
                remove(path)
        self.forget_after(_step(final))

    def _for_good(self, step: int) -> bool:
        return bool(self.keep_every) and step % self.keep_every == 0

    def _sweep(self) -> None:
        sweep(self.folder)
        for path in self.folder.glob(".step_*"):
            shutil.rmtree(path)

    def _present(self) -> list[Path]:
        """By step, sound or not."""
        numbered = [path for path in self.folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(numbered, key=_step)


def restore(path: Path, stages: Stages) -> Resumed:
    """Load a checkpoint into the stages; ``restore_generators`` does the rest. Logs a warning where other versions of
    what computes wrote it: the run goes on, but no longer bit for bit.

    Raises ConfigError where the stages with a state are not those of the checkpoint: another option was chosen.
    """
    state = json.loads((path / "state.json").read_text())
    saved, stateful = state["stages"], dict(_stateful(stages))
    for name in sorted(saved.keys() ^ stateful.keys()):
        has, lacks = ("the checkpoint", "this run's") if name in saved else ("this run's", "the checkpoint's")
        raise ConfigError(f"resume: {has} {name} has a state and {lacks} {name} has none; resume with the same {name}=")
    for name, version in state["versions"].items():
        if version != VERSIONS.get(name):
            log.warning("saved with %s %s, resumed with %s: numbers may differ", name, version, VERSIONS.get(name))
    stages.learner.load(path / "learner")
    for name, stage in stateful.items():
        stage.load_state_dict(saved[name])
    return Resumed(step=state["step"], cursor=state["cursor"], extra=state["extra"])


def restore_generators(path: Path) -> None:
    """Put the global random generators where they stood; last, right before the next step, since building a run draws
    from them."""
    generators = json.loads((path / "state.json").read_text())["generators"]
    _set_generators(generators, load_file(path / "rng.safetensors"))


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
            "saved on %d GPUs, resumed on %d: their generators start anew", len(saved), torch.cuda.device_count()
        )


def _seal(folder: Path) -> None:
    """Write the manifest and bring everything to the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (folder / "manifest.json").write_text(json.dumps({"files": sums}, indent=1))
    follow_umask(folder)
    sync_all(folder)


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


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _bytes(size: int) -> str:
    power = min(max(len(str(size)) - 1, 0) // 3, 3)
    return f"{size / 1000**power:.3g} {('B', 'KB', 'MB', 'GB')[power]}"
