"""What a run has read, by content: rows, chat template, weights, files. A checkpoint keeps it, and a resumed run is
compared with it: a file may have moved, but not changed."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from dqo import distributed
from dqo.config.paths import file_of, path_keys
from dqo.config.schema import Config, EvalConfig
from dqo.errors import ConfigError
from dqo.row_checks import Fingerprinted
from dqo.stages import Task

log = logging.getLogger(__name__)

Inputs = Mapping[str, Any]  # JSON; by name: a fingerprint, or for a file of the configuration [path, hash]

WEIGHTS = "weights"
SAMPLES = 64  # values of each tensor that are compared: other weights differ in nearly all values
HASHED = 64_000_000  # bytes of a file; of a larger one the first, and its size
ELSEWHERE = ("model.", "embed.")  # groups that are compared by weights, template and the encoder's own probe


def task_inputs(config: Config, task: Task) -> dict[str, Any]:
    """The fingerprints of a task's rows, if the task says them, and of the files that other keys name; of the folder of
    a critic or a reward model those of its weights."""
    ours = task.fingerprints() if isinstance(task, Fingerprinted) else {}
    compared = (*ELSEWHERE, "task.") if ours else ELSEWHERE
    files = {}
    for key, value in path_keys(config).items():
        for number, text in enumerate(value if isinstance(value, list) else [value], 1):
            place = file_of(text)
            weights = sorted(place.glob("*.safetensors")) if key.startswith(("critic.", "reward.")) else []
            if not key.startswith(compared) and (read := [place] if place.is_file() else weights):
                files[f"{key} {number}"] = [str(place), _hash(*read)]
    return {**ours, **files}


def model_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """The fingerprint of weights as they were read, before any training; the same for any file that holds them."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        count = tensor.numel()
        places = torch.linspace(0, max(0, count - 1), min(SAMPLES, count), dtype=torch.float64).long()
        digest.update(f"{name} {[*tensor.shape]}".encode())
        digest.update(tensor.flatten()[places.to(tensor.device)].float().cpu().numpy().tobytes())
    return {WEIGHTS: digest.hexdigest()}


def refuse_other_inputs(config: Config, now: Inputs, saved: Inputs | None) -> None:
    """Raises ConfigError if the rows, the chat template or the weights are not those the resumed run was started
    with, or if a file at a new path has other content. A file that was edited at its old path is logged as a warning.
    ``saved``: None for a new run."""
    for name, new in now.items():
        then = (saved or {}).get(name, new)
        is_file = isinstance(new, list)
        if is_file and new[0] == then[0] and new != then and distributed.is_rank_0():
            log.warning("%s was edited since the run was started; the run goes on with the file as it is now", new[0])
        elif is_file and new[0] != then[0] and new[1] != then[1]:
            what = f"{new[0]} is not the same file as {then[0]}, with which the run was started"
            raise _refusal(config, what, [name.partition(" ")[0]])
        elif not is_file and new != then:
            what = f"not the {name} that the run was started with (now {new}, then {then})"
            raise _refusal(config, what, _keys(config, name))


def _refusal(config: Config, what: str, keys: Sequence[str]) -> ConfigError:
    typed = " or ".join(f"{key}=PATH" for key in keys)
    same = f"type {typed} of the same content, or start" if keys else "start"
    return ConfigError(
        f"resume={config.resume}: {what}; {same} a new run with run_dir=ANOTHER_FOLDER in place of resume="
    )


def _keys(config: Config, name: str) -> list[str]:
    """The keys that name where the rows, the weights or the template come from; none where dqo-eval was given policies
    without a key."""
    if isinstance(config, EvalConfig) and not name.endswith("rows"):
        return []
    if name == WEIGHTS:
        return ["model.path"]
    if name.endswith("rows"):
        return [key for key in path_keys(config) if key.startswith("task.")]
    return ["model.chat_template", "model.path"]


def _hash(*files: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(str(file.stat().st_size).encode())
        with file.open("rb") as opened:
            digest.update(opened.read(HASHED))
    return digest.hexdigest()
