"""Groups with given embeddings, rewards and validity, for the credits' tests."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dqo.records import Prompt, Rewards, Rollouts
from dqo.references import Reference
from tests.factories import WORDS, make_prompts, make_rewards, make_rollouts


def unit_vectors(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def group(
    rewards: Sequence[Sequence[float]], valid: Sequence[Sequence[bool]] | None = None
) -> tuple[Rollouts, Rewards]:
    """Rollouts and rewards of prompts at positions 10, 11 …; a completion is correct where its reward is above 0."""
    count, k = len(rewards), len(rewards[0])
    prompts = [prompt for prompt in make_prompts(10 + count) if prompt.position >= 10]
    rollouts = make_rollouts(WORDS[: count * k], k, prompts=prompts)
    return rollouts, make_rewards(rewards, valid=None if valid is None else torch.tensor(valid))


def reference(
    prompt: Prompt, totals: Sequence[float], *, valid: Sequence[bool] | None = None,
    texts: Sequence[str] | None = None, embeddings_KD: Tensor | None = None,
) -> Reference:  # fmt: skip
    """The initial policy's completions of a prompt, with these rewards."""
    texts = WORDS[: len(totals)] if texts is None else texts
    return Reference(
        rollouts=make_rollouts(texts, len(totals), prompts=[prompt]),
        rewards=make_rewards([totals], valid=None if valid is None else torch.tensor([valid])),
        embeddings_KD=embeddings_KD,
    )
