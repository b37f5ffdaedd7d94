"""A LoRA of a sequence classifier, as peft saves it: a folder without config.json."""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the model's own name of a tensor
HEAD = re.compile(r"(score|classifier|classifier\.out_proj)\.weight")  # is trained as a whole and saved


@dataclass(frozen=True, kw_only=True)
class ClassifierAdapter:
    """What is known of an adapter before its weights are read."""

    folder: Path
    base: str  # the model that it was trained on: a folder, or a name on the hub
    labels: int | None  # None: the head is the base's
    tensors: frozenset[str]  # that it brings whole, such as the head, by the model's names

    def merged(self, base: PreTrainedModel) -> PreTrainedModel:
        """``base`` with the adapter added to its weights, in their dtype and on their device; ``base`` is used up.

        Raises ValueError, RuntimeError or UserWarning where the adapter does not fit.
        """
        dtype = base.dtype
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(base, str(self.folder), torch_device=str(base.device))
            return adapted.merge_and_unload(safe_merge=True).to(dtype)  # pyright: ignore[reportCallIssue]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a model."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> ClassifierAdapter:
    """Raises ValueError, with the fault in one line, for anything but a LoRA of a sequence classifier."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
        base, kind, task = (config.get(key) for key in ("base_model_name_or_path", "peft_type", "task_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"its {CONFIG} cannot be read ({error})") from error
    if (kind, task) != ("LORA", "SEQ_CLS"):
        raise ValueError(f"is an adapter with peft_type={kind} task_type={task}, not a LoRA of a classifier (SEQ_CLS)")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{CONFIG} does not name its base model; write base_model_name_or_path there")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"is an adapter without {WEIGHTS} (pickles are not read, since they can run code)")
    shapes = _whole_tensors(folder / WEIGHTS)
    heads = [shape[0] for name, shape in shapes.items() if HEAD.fullmatch(name)]
    return ClassifierAdapter(
        folder=folder, base=_base(base, folder), labels=heads[0] if heads else None, tensors=frozenset(shapes)
    )


def _base(name: str, folder: Path) -> str:
    """A relative path of the base model is looked for in the working folder, then beside the adapter."""
    places = (Path(name).expanduser(), folder / name, folder.parent / name)
    return next((str(place) for place in places if place.is_dir()), name)


def _whole_tensors(file: Path) -> dict[str, list[int]]:
    """The shapes of the tensors that are no adapter's, by the model's names."""
    try:
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.offset_keys() if ".lora_" not in name]
            return {name.removeprefix(PREFIX): tensors.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{WEIGHTS} cannot be read ({error})") from error
