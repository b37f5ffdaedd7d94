"""One trained model's state on disk, the same for every engine and number of ranks: named fp32 tensors, nothing
pickled.

learner.json                    version: how many updates the state has seen (written by the learner)
policy/parameters.safetensors   the trained parameters (all of a full fine-tuning, the adapters of LoRA)
policy/moments.safetensors      <key>/<parameter>, by the optimizer's own keys: exp_avg, exp_avg_sq, step

Another trained model has a folder beside ``policy``. Tensors are written as they come, in files of ``SHARD`` bytes
(parameters-2.safetensors …): no rank holds all of them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dqo import distributed
from dqo.errors import ConfigError

SHARD = 4_000_000_000  # bytes


def save(folder: Path, *, parameters: Iterable[tuple[str, Tensor]], moments: Iterable[tuple[str, Tensor]]) -> None:
    """Write one model's state. ``moments`` are named <key>/<parameter>. A collective, since producing the tensors may
    be one; rank 0 writes."""
    if distributed.is_rank_0():
        folder.mkdir(parents=True, exist_ok=True)
    _write(folder, "parameters", parameters)
    _write(folder, "moments", moments)


class Saved:
    """Reads what ``save`` wrote, one tensor at a time, onto the CPU."""

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]):
        """``shapes``: {name: shape} of this run's trained parameters. Raises ConfigError if the saved ones differ."""
        self._parameters, self._moments = _Files(folder, "parameters"), _Files(folder, "moments")
        mine, theirs = dict(shapes), self._parameters.shapes()
        different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if different:
            name = different[0]
            raise ConfigError(
                f"resume: {len(different)} trained parameters differ from the checkpoint's, first {name} "
                f"(shape {theirs.get(name, 'none')} saved, {mine.get(name, 'none')} here); resume with the same "
                "model=, critic= and learner.lora_*"
            )

    def parameter(self, name: str) -> Tensor:
        """The saved value of a parameter, fp32."""
        return self._parameters.tensor(name)

    def moments(self, name: str) -> dict[str, Tensor]:
        """{optimizer's key: tensor} of one parameter; empty if no step was taken."""
        keys = [key for key in self._moments.files if key.partition("/")[2] == name]
        return {key.partition("/")[0]: self._moments.tensor(key) for key in keys}


class _Files:
    """All tensors of one kind ("parameters" or "moments"), whichever shard file they are in."""

    def __init__(self, folder: Path, kind: str):
        files = [safe_open(path, "pt") for path in sorted(folder.glob(f"{kind}*.safetensors"))]
        self.files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - not a mapping

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self.files.items()}

    def tensor(self, name: str) -> Tensor:
        return self.files[name].get_tensor(name)


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
