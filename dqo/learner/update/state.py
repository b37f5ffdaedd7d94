"""A learner's state on disk, the same for every engine and number of processes: named fp32 tensors, nothing pickled.

parameters.safetensors   the trained parameters (all of a full fine-tuning, the adapters of LoRA)
moments.safetensors      <key>/<parameter>, by the optimizer's own keys: exp_avg, exp_avg_sq, step
learner.json             version: the updates behind these numbers

Tensors are written as they come, in files of ``SHARD`` bytes (parameters-2.safetensors …): no process holds all.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dqo import distributed
from dqo.errors import ConfigError

SHARD = 4_000_000_000  # bytes


def save(
    folder: Path, *, parameters: Iterable[tuple[str, Tensor]], moments: Iterable[tuple[str, Tensor]], version: int
) -> None:
    """``moments``: by <key>/<parameter>. A collective: making the tensors may be one; the first process writes."""
    _write(folder, "parameters", parameters)
    _write(folder, "moments", moments)
    if distributed.is_rank_0():
        (folder / "learner.json").write_text(json.dumps({"version": version}))


class Saved:
    """What ``save`` wrote, read tensor by tensor, onto the CPU."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]):
        """Raises ConfigError where the saved parameters are not those of ``shapes``: another model, other adapters."""
        self._parameters, self._moments = _Files(folder, "parameters"), _Files(folder, "moments")
        self.version: int = json.loads((folder / "learner.json").read_text())["version"]
        mine, theirs = dict(shapes), self._parameters.shapes()
        different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if different:
            name = different[0]
            raise ConfigError(
                f"resume: {len(different)} trained parameters are not the checkpoint's, the first {name} "
                f"({theirs.get(name, 'none')} saved, {mine.get(name, 'none')} here); resume with the same model= and "
                "learner.lora_*"
            )

    def parameter(self, name: str) -> Tensor:
        return self._parameters.tensor(name)

    def moments(self, name: str) -> dict[str, Tensor]:
        """Of one parameter, by the optimizer's keys; none before the first step."""
        keys = [key for key in self._moments.places if key.partition("/")[2] == name]
        return {key.partition("/")[0]: self._moments.tensor(key) for key in keys}


class _Files:
    """The tensors of one kind, wherever they are."""

    def __init__(self, folder: Path, kind: str):
        files = [safe_open(path, "pt") for path in sorted(folder.glob(f"{kind}*.safetensors"))]
        self.places = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - it is no mapping

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self.places.items()}

    def tensor(self, name: str) -> Tensor:
        return self.places[name].get_tensor(name)


def _write(folder: Path, kind: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    shard: dict[str, Tensor] = {}
    number = size = 0

    def flush() -> None:
        nonlocal number, size
        number += 1
        save_file(shard, folder / f"{kind}{'' if number == 1 else f'-{number}'}.safetensors")
        shard.clear()
        size = 0

    for name, tensor in tensors:
        if not distributed.is_rank_0():
            continue
        bytes_ = tensor.numel() * tensor.element_size()
        if shard and size + bytes_ > SHARD:
            flush()
        shard[name] = tensor.detach().cpu().contiguous()
        size += bytes_
    if distributed.is_rank_0():
        flush()
