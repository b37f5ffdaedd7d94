"""Supervised fine-tuning on demonstrations: a warm start for a model that does not solve its task at all yet."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from dqo.records import Prompt

IGNORED = -100  # transformers' label of a token without loss


def finetune(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[tuple[Prompt, str]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    observe: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train ``policy`` in place, loss on the completion and its end token; AdamW, linear decay, gradients clipped at 1.

    ``observe`` gets each step's number (from 1) and loss (nats a token). Returns the mean loss of the last tenth of
    steps.
    """
    device, generator = policy.device, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=min(20, steps // 10), num_training_steps=steps)
    losses = []
    policy.train()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(demonstrations), (batch_size,), generator=generator).tolist()
        tokens_BT, labels_BT, mask_BT = (t.to(device) for t in rows(tokenizer, [demonstrations[i] for i in chosen]))
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


def rows(
    tokenizer: PreTrainedTokenizerBase, demonstrations: Sequence[tuple[Prompt, str]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (IGNORED on prompt and padding) and mask of [prompt, completion, end], padded on the right."""
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
