"""A learner's state on disk, the same for every engine and number of processes: named fp32 tensors, nothing pickled.

parameters.safetensors   the trained parameters (all of a full fine-tuning, the adapters of LoRA)
moments.safetensors      <key>/<parameter>, by the optimizer's own keys: exp_avg, exp_avg_sq, step
learner.json             version: the updates behind these numbers
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dqo.errors import ConfigError


def save(
    folder: Path, *, parameters: Mapping[str, Tensor], moments: Mapping[str, Mapping[str, Tensor]], version: int
) -> None:
    """``moments``: of each parameter by name, as ``torch.optim.Optimizer.state`` holds them."""
    detached = {name: tensor.detach().contiguous() for name, tensor in parameters.items()}
    save_file(detached, folder / "parameters.safetensors")
    flat = {f"{key}/{name}": tensor.contiguous() for name, state in moments.items() for key, tensor in state.items()}
    save_file(flat, folder / "moments.safetensors")
    (folder / "learner.json").write_text(json.dumps({"version": version}))


def load(folder: Path, parameters: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], int]:
    """Parameters, moments and version as they were given to ``save``, on the CPU.

    Raises ConfigError where the saved parameters are not those of ``parameters``: another model, or other adapters.
    """
    saved = load_file(folder / "parameters.safetensors")
    mine, theirs = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (parameters, saved))
    different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    if different:
        name = different[0]
        raise ConfigError(
            f"resume: {len(different)} trained parameters are not the checkpoint's, the first {name} "
            f"({theirs.get(name, 'none')} saved, {mine.get(name, 'none')} here); resume with the same model= and "
            "learner.lora_*"
        )
    moments: dict[str, dict[str, Tensor]] = {}
    for path, tensor in load_file(folder / "moments.safetensors").items():
        key, _, name = path.partition("/")
        moments.setdefault(name, {})[key] = tensor
    return saved, moments, json.loads((folder / "learner.json").read_text())["version"]
