"""Where a policy's weights come from: what the folder of a model says about itself, beside weights and tokenizer."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import metadata_load
from safetensors import SafetensorError, safe_open

from dqo import __version__
from dqo.models.folders import first_line

log = logging.getLogger(__name__)

MARK = "dqo.json"  # beside the weights that dqo writes: what they were fine-tuned on
LICENSE = ("license", "license_name", "license_link")  # of a model card's front matter
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # safetensors' names


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Example: the weights of Qwen/Qwen3-0.6B, in bfloat16, apache-2.0, without a warm start."""

    dtype: torch.dtype | None = None  # of most weights in the files; None: not known
    hub_name: str | None = None  # of the model on the hub, or of the one that it was trained from
    license: Mapping[str, Any] = field(default_factory=dict)  # LICENSE
    warm_starts: Sequence[str] = ()  # fingerprints of the demonstrations that the weights were fine-tuned on


def read_origin(folder: Path, *, name: str, hub_name: str | None, readme: Path | None) -> Origin:
    """``name``: for messages. ``hub_name``: if the folder was fetched under one. ``readme``: the model card, if it is
    not in the folder."""
    card = _front_matter(folder / "README.md" if readme is None else readme, name)
    base = card.get("base_model")
    return Origin(
        dtype=_dtype(folder),
        hub_name=hub_name or _name_in_hub_cache(folder) or (base if isinstance(base, str) else None),
        license={key: card[key] for key in LICENSE if isinstance(card.get(key), str | list)},
        warm_starts=_warm_starts(folder),
    )


def mark(origin: Origin, *, warm_start: str | None = None) -> str:
    """The content of MARK for weights trained from ``origin``. ``warm_start``: the fingerprint of demonstrations that
    they were fine-tuned on in addition."""
    known = [*origin.warm_starts, *([warm_start] if warm_start else [])]
    return json.dumps({"dqo": __version__, "warm_starts": list(dict.fromkeys(known))}, indent=1) + "\n"


def _dtype(folder: Path) -> torch.dtype | None:
    """The floating-point type that most weights have. A file that cannot be read is reported when the weights are."""
    counts = Counter()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                for name in file.offset_keys():
                    part = file.get_slice(name)
                    counts[part.get_dtype()] += torch.Size(part.get_shape()).numel()
        except (OSError, SafetensorError):
            return None
    most, _ = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    return DTYPES.get(str(most))


def _front_matter(readme: Path, name: str) -> dict[str, Any]:
    if not readme.is_file():
        return {}
    try:
        return metadata_load(readme) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning("model.path=%s: README.md has no front matter that can be read (%s)", name, first_line(error))
        return {}


def _name_in_hub_cache(folder: Path) -> str | None:
    """ORG/NAME for a folder in the hub's local cache: …/models--ORG--NAME/snapshots/COMMIT."""
    repository = next((part for part in folder.parts if part.startswith("models--")), "")
    return repository.removeprefix("models--").replace("--", "/") or None


def _warm_starts(folder: Path) -> list[str]:
    """What MARK says; empty where the folder has none, or one that dqo has not written."""
    try:
        known = json.loads((folder / MARK).read_text("utf-8"))["warm_starts"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [text for text in known if isinstance(text, str)] if isinstance(known, list) else []
