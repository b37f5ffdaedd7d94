"""From completions' tokens to the ``Supervised`` record that the learner takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dqo.errors import ConfigError, StageError
from dqo.records import Prompt, Rewards, Rollouts, Supervised


@dataclass(frozen=True, kw_only=True)
class Exemplars:
    """Completions of one prompt, end token included, and the weight of each one's tokens."""

    prompt: Prompt
    completions: Sequence[Sequence[int]]
    weights: Sequence[float]


def correct_completions(rollouts: Rollouts, rewards: Rewards, *, key: str) -> list[list[tuple[int, list[int]]]]:
    """(row, tokens) of each valid and correct completion, prompt by prompt; completions without a token are left out.

    Raises ConfigError, which names ``key``, for a reward that does not say what is correct, and StageError for a
    completion with tokens that the policy did not sample.
    """
    if rewards.correct_PK is None:
        raise ConfigError(
            f"{key}: this reward does not say which completions are correct; type reward=check or loss=clip"
        )
    right_PK, k = rewards.valid_PK & rewards.correct_PK, rollouts.k
    return [
        [
            (row, tokens)
            for row in range(p * k, (p + 1) * k)
            if right_PK[p, row - p * k] and (tokens := _tokens(rollouts, row))
        ]
        for p in range(len(rollouts.prompts))
    ]


def _tokens(rollouts: Rollouts, row: int) -> list[int]:
    prompt = rollouts.prompts[row // rollouts.k]
    own = slice(len(prompt.tokens), int(rollouts.lengths_B[row]))
    if not rollouts.sampled_BT[row, own].all():
        message = "a completion with tokens that the policy did not sample (tool output) cannot be an exemplar"
        raise StageError("loss", message, positions=[prompt.position])
    return rollouts.tokens_BT[row, own].tolist()


def batch(groups: Sequence[Exemplars]) -> Supervised | None:
    """One record of all exemplars; prompts with fewer than others get rows without a sampled token. None for no
    exemplars."""
    k = max((len(group.completions) for group in groups), default=0)
    if not k:
        return None
    groups = [group for group in groups if group.completions]
    width = max(len(group.prompt.tokens) + len(own) for group in groups for own in group.completions)
    rows = len(groups) * k
    tokens_BT = torch.zeros(rows, width, dtype=torch.long)
    sampled_BT = torch.zeros(rows, width, dtype=torch.bool)
    weights_BT = torch.zeros(rows, width)
    lengths_B = torch.tensor([len(group.prompt.tokens) for group in groups]).repeat_interleave(k)
    for g, group in enumerate(groups):
        start = len(group.prompt.tokens)
        tokens_BT[g * k : (g + 1) * k, :start] = torch.tensor(group.prompt.tokens)
        for row, (own, weight) in enumerate(zip(group.completions, group.weights, strict=True), start=g * k):
            end = lengths_B[row] = start + len(own)
            tokens_BT[row, start:end] = torch.tensor(own)
            sampled_BT[row, start:end], weights_BT[row, start:end] = True, weight
    rollouts = Rollouts(
        prompts=tuple(group.prompt for group in groups), k=k, tokens_BT=tokens_BT, sampled_BT=sampled_BT,
        logprobs_BT=torch.zeros(rows, width), lengths_B=lengths_B, finished_B=torch.ones(rows, dtype=torch.bool),
        versions_B=torch.zeros(rows, dtype=torch.long), texts=("",) * rows,
    )  # fmt: skip
    return Supervised(rollouts=rollouts, weights_BT=weights_BT)
