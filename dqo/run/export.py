"""``policy/``: the trained model as a Hugging Face folder that samples as the run did."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import GenerationConfig

from dqo.config.schema import Config
from dqo.models import save_policy
from dqo.models.origin import MARK, mark
from dqo.rollout.sampling.record import end_tokens
from dqo.run.build import Policy
from dqo.stages import Weights

NEUTRAL = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}  # for engines without these keys


def export_policy(
    config: Config,
    policy: Policy,
    folder: Path,
    *,
    weights: Weights | None = None,
    warm_start: str | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Writes the folder. ``weights``: the learner's. ``warm_start``: the fingerprint of demonstrations that they were
    fine-tuned on, beside those that ``policy.origin`` names. ``files``: texts of further files by name."""
    save_policy(
        policy.model, policy.tokenizer, folder, weights=weights, dtype=export_dtype(config, policy),
        generation=generation_config(config, policy),
        files={MARK: mark(policy.origin, rendering=policy.rendering, warm_start=warm_start), **(files or {})},
    )  # fmt: skip


def export_dtype(config: Config, policy: Policy) -> torch.dtype:
    """The type of the weights in policy/; ``checkpoint.export_dtype=auto``: the one that they came in."""
    chosen = config.checkpoint.export_dtype
    return (policy.origin.dtype or policy.model.dtype) if chosen == "auto" else getattr(torch, chosen)


def generation_config(config: Config, policy: Policy) -> GenerationConfig:
    """Temperature, filters, longest completion and end tokens of the run; nothing else of the base model's own."""
    rollout, model, tokenizer = config.rollout, policy.model, policy.tokenizer
    ends = end_tokens(model, tokenizer, rollout.get("stop_tokens", ()))
    first = [tokenizer.eos_token_id] if tokenizer.eos_token_id in ends else []
    ordered = [*first, *sorted(ends.difference(first))]
    return GenerationConfig(
        do_sample=True,
        temperature=rollout.get("temperature", config.temperature),
        max_new_tokens=rollout.get("max_completion_length", config.max_completion_length),
        eos_token_id=ordered[0] if len(ordered) == 1 else ordered,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=model.generation_config.bos_token_id,
        **{key: rollout.get(key, value) for key, value in NEUTRAL.items()},
    )
