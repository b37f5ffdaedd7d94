"""Shared by all engines: the set of end tokens, and the record of finished groups."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt, Rollouts


def end_tokens(policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[str]) -> set[int]:
    """All token ids that end a completion: of the generation config, the tokenizer and ``rollout.stop_tokens``.

    Raises ConfigError for a stop token that is not exactly one token of this model.
    """
    configured = policy.generation_config.eos_token_id
    ends = set() if configured is None else {configured} if isinstance(configured, int) else set(configured)
    if isinstance(tokenizer.eos_token_id, int):
        ends.add(tokenizer.eos_token_id)
    for text in stop_tokens:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) != 1 or (tokens[0] == tokenizer.unk_token_id and text != tokenizer.unk_token):
            raise ConfigError(f"rollout.stop_tokens={stop_tokens}: {text!r} is not one token of this model")
        ends.add(tokens[0])
    return ends


def record(
    prompts: Sequence[Prompt], completions: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]],
    finished: Sequence[bool], *, tokenizer: PreTrainedTokenizerBase, version: int,
) -> Rollouts:  # fmt: skip
    """The record of complete groups.

    ``completions``: sampled token ids per row, end token included where ``finished``; ``logprobs``: their
    log-probabilities in nats, from the sampler.
    """
    k = len(completions) // len(prompts)
    rows = [[*prompts[row // k].tokens, *tokens] for row, tokens in enumerate(completions)]
    starts_B = torch.tensor([len(prompt.tokens) for prompt in prompts]).repeat_interleave(k)
    lengths_B = torch.tensor([len(row) for row in rows])
    columns_T = torch.arange(int(lengths_B.max()))
    inside_BT = columns_T < lengths_B[:, None]
    sampled_BT = inside_BT & (columns_T >= starts_B[:, None])
    flat = torch.tensor([token for row in rows for token in row])
    flat_logprobs = torch.tensor([value for row in logprobs for value in row])
    return Rollouts(
        prompts=tuple(prompts),
        k=k,
        tokens_BT=torch.zeros(inside_BT.shape, dtype=torch.long).masked_scatter(inside_BT, flat),
        sampled_BT=sampled_BT,
        logprobs_BT=torch.zeros(inside_BT.shape).masked_scatter(sampled_BT, flat_logprobs),
        lengths_B=lengths_B,
        finished_B=torch.tensor(finished),
        versions_B=torch.full((len(rows),), version),
        texts=tuple(
            str(tokenizer.decode([*tokens[: len(tokens) - ended]], skip_special_tokens=True))
            for tokens, ended in zip(completions, finished, strict=True)
        ),
    )
