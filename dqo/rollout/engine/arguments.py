"""How vLLM is started for a policy: arguments of its ``LLM``."""

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from dqo import distributed
from dqo.models import cached_folder


def config_folder(policy: PreTrainedModel) -> Path:
    """A folder with the model's config, named by a hash of it: vLLM caches compiled code under the folder's name. A
    collective."""
    config = copy.deepcopy(policy.config)
    config.architectures = [type(policy).__name__]  # missing in a model that was not loaded from a folder
    digest = hashlib.sha256(config.to_json_string().encode()).hexdigest()
    return cached_folder(f"engine-{digest[:16]}", config.save_pretrained)


def prefill_settings(device: torch.device) -> dict[str, Any]:
    """No chunked prefill on a CPU: vLLM 0.32 rewinds the request's generator after a chunk, and CPU generators cannot
    be rewound."""
    return {"enable_chunked_prefill": False} if device.type == "cpu" else {}


def executor_settings() -> dict[str, Any]:
    """With several ranks, engines run inside the existing processes."""
    return {"distributed_executor_backend": "external_launcher"} if distributed.world_size() > 1 else {}


def engine_max_model_len(max_model_len: int, policy: PreTrainedModel) -> int:
    """``max_model_len`` plus the token that ``score`` adds; at most the number of positions of the model."""
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    return max_model_len + 1 if positions is None or max_model_len < positions else max_model_len
