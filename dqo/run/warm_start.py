"""Supervised fine-tuning on a task's demonstrations: a warm start for a model that does not solve its task yet."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from dqo import __version__
from dqo.config.schema import Config
from dqo.errors import ConfigError
from dqo.models import cached_folder, save_policy
from dqo.models.folders import no_progress_bars
from dqo.records import Prompt
from dqo.run.build import make_device
from dqo.stages import Demonstrating, Task

log = logging.getLogger(__name__)
DEMONSTRATIONS = 20_000  # drawn from the task, at most
IGNORED = -100  # transformers' label of a token without loss

Demonstrations = Sequence[tuple[Prompt, str]]


def demonstrations_of(config: Config, task: Task) -> Demonstrations:
    """The task's example answers. Raises ConfigError for a task that has none."""
    if not isinstance(task, Demonstrating):
        raise ConfigError(f"{type(task).__name__} shows no answers to fine-tune on; type warm_start=false")
    return task.demonstrations(DEMONSTRATIONS, seed=config.sft.seed)


def warm_started(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
) -> PreTrainedModel:
    """The fine-tuned model, from the cache or written to it. The cache's key is everything that the result depends
    on. A collective: rank 0 trains."""
    demonstrations = demonstrations_of(config, task)

    def build(folder: Path) -> None:
        log.info("warm start: %d steps on the demonstrations of the task (once; cached)", config.sft.steps)
        loss = finetune_as_configured(config, model, tokenizer, demonstrations)
        log.info("warm start: loss %.3f nats a token", loss)
        save_policy(model, tokenizer, folder)

    numbers = config.model_dump(include={"model", "sft"})
    pairs = [(prompt.tokens, text) for prompt, text in demonstrations]
    key = hashlib.sha256(json.dumps([__version__, numbers, pairs], sort_keys=True).encode()).hexdigest()
    folder = cached_folder(f"warm-{key[:16]}", build)
    with no_progress_bars():
        return type(model).from_pretrained(folder, dtype=model.dtype, use_safetensors=True).eval()


def finetune_as_configured(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, demonstrations: Demonstrations,
    observe: Callable[[int, float], None] = lambda step, loss: None,
) -> float:  # fmt: skip
    """``finetune`` with the numbers of ``sft``, on the configured device."""
    torch.nn.Module.to(model, make_device(config))  # in place; transformers' own ``to`` hides its types
    return finetune(
        model,
        tokenizer,
        demonstrations,
        steps=config.sft.steps,
        batch_size=config.sft.batch_size,
        learning_rate=config.sft.learning_rate,
        seed=config.sft.seed,
        observe=observe,
    )


def finetune(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Demonstrations,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    observe: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train ``policy`` in place; returns the mean loss of the last tenth of steps, in nats a token.

    The loss is on the completion and its end token; AdamW with linear decay, gradients clipped at norm 1. ``observe``
    gets each step's number (from 1) and loss.
    """
    device, generator = policy.device, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=min(20, steps // 10), num_training_steps=steps)
    losses = []
    policy.train()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(demonstrations), (batch_size,), generator=generator).tolist()
        batch = (tensor.to(device) for tensor in padded_batch(tokenizer, [demonstrations[i] for i in chosen]))
        tokens_BT, labels_BT, mask_BT = batch
        logits_BTV = policy(input_ids=tokens_BT, attention_mask=mask_BT).logits.float()
        loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        observe(step, losses[-1])
    policy.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def padded_batch(tokenizer: PreTrainedTokenizerBase, demonstrations: Demonstrations) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (IGNORED on prompt and padding) and attention mask of [prompt, completion, end token], padded on
    the right: (B, T) each."""
    encoded = [
        (list(prompt.tokens), [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
        for prompt, text in demonstrations
    ]
    width = max(len(prompt) + len(completion) for prompt, completion in encoded)
    tokens_BT = torch.zeros(len(encoded), width, dtype=torch.long)
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    mask_BT = torch.zeros_like(tokens_BT)
    for b, (prompt, completion) in enumerate(encoded):
        end = len(prompt) + len(completion)
        tokens_BT[b, :end] = torch.tensor(prompt + completion)
        labels_BT[b, len(prompt) : end] = torch.tensor(completion)
        mask_BT[b, :end] = 1
    return tokens_BT, labels_BT, mask_BT
