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

MARK = "dqo.json"  # beside the weights that dqo writes: what they were fine-tuned on, and how prompts were rendered
LICENSE = ("license", "license_name", "license_link")  # of a model card's front matter
SHOWN = 60  # characters of a system turn in a message
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # safetensors' names


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Example: the weights of Qwen/Qwen3-0.6B, in bfloat16, apache-2.0, without a warm start."""

    dtype: torch.dtype | None = None  # of most weights in the files; None: not known
    hub_name: str | None = None  # of the model on the hub, or of the one that it was trained from
    license: Mapping[str, Any] = field(default_factory=dict)  # LICENSE
    warm_starts: Sequence[str] = ()  # fingerprints of the demonstrations that the weights were fine-tuned on
    rendering: Mapping[str, Any] | None = None  # ``row_checks.Rendered`` of the training task; None: not known


def read_origin(folder: Path, *, name: str, hub_name: str | None, readme: Path | None) -> Origin:
    """``name``: for messages. ``hub_name``: if the folder was fetched under one. ``readme``: the model card, if it is
    not in the folder."""
    card = _front_matter(folder / "README.md" if readme is None else readme, name)
    base, marked = card.get("base_model"), _marked(folder)
    known, rendering = marked.get("warm_starts"), marked.get("rendering")
    return Origin(
        dtype=_dtype(folder),
        hub_name=hub_name or _name_in_hub_cache(folder) or (base if isinstance(base, str) else None),
        license={key: card[key] for key in LICENSE if isinstance(card.get(key), str | list)},
        warm_starts=[text for text in known if isinstance(text, str)] if isinstance(known, list) else [],
        rendering=rendering if isinstance(rendering, Mapping) else None,
    )


def mark(origin: Origin, *, rendering: Mapping[str, Any] | None = None, warm_start: str | None = None) -> str:
    """The content of MARK for weights trained from ``origin``. ``rendering``: ``row_checks.Rendered`` of the task that
    they were trained on. ``warm_start``: the fingerprint of demonstrations that they were fine-tuned on in addition."""
    known = [*origin.warm_starts, *([warm_start] if warm_start else [])]
    content = {"dqo": __version__, "warm_starts": list(dict.fromkeys(known)), "rendering": rendering}
    return json.dumps(content, indent=1) + "\n"


def rendering_difference(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """How a task renders prompts otherwise than the policy was trained on, and what to type; empty where it does not,
    or where one of the two is not known. Example: "plain text now, the chat template in training
    (task.chat_template=true)"."""
    if then is None or now is None:
        return ""
    names = {True: "the chat template", False: "plain text"}
    if then.get("chat") != now["chat"]:
        was = bool(then.get("chat"))
        return f"{names[now['chat']]} now, {names[was]} in training (task.chat_template={str(was).lower()})"
    differences = []
    if then.get("template") != now["template"]:
        differences.append("another chat template than in training (model.chat_template=FILE)")
    for key, where in (("system", "system turn"), ("chat_template_kwargs", "task.chat_template_kwargs")):
        if then.get(key) != now[key]:
            differences.append(f"{where} {_shown(now[key])} now, {_shown(then.get(key))} in training")
    return "; ".join(differences)


def _shown(value: Any) -> str:
    text = json.dumps(value or None, ensure_ascii=False)
    return "none" if text == "null" else f"{text[:SHOWN]}…" if len(text) > SHOWN else text


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


def _marked(folder: Path) -> dict[str, Any]:
    """The content of MARK; empty where the folder has none, or one that dqo has not written."""
    try:
        content = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
