"""Scores at a completion's last token, and advantages of tokens by generalized advantage estimation."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo import distributed
from dqo.metrics.ties import TIE_TOLERANCE

EPSILON = 1e-8  # added to a variance before its root divides; TRL's and verl's value


def at_last_token(
    scores_PK: Float[Tensor, "prompts k"], sampled_BT: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """Each completion's score at its last sampled token, 0.0 elsewhere."""
    later_BT = sampled_BT.flip(1).cumsum(1).flip(1)  # sampled tokens from here on
    return torch.where(sampled_BT & (later_BT == 1), scores_PK.reshape(-1, 1), 0.0)


def estimated_advantages(
    rewards_BT: Float[Tensor, "batch tokens"],
    values_BT: Float[Tensor, "batch tokens"],
    sampled_BT: Bool[Tensor, "batch tokens"],
    *,
    gamma: float,
    lam: float,
) -> Float[Tensor, "batch tokens"]:
    """GAE (arXiv 1506.02438) over each row's sampled tokens, 0.0 elsewhere: A_t = δ_t + gamma * lam * A_{t+1} with δ_t
    = r_t + gamma * V_{t+1} - V_t. After the last token V and A are 0, for truncated completions too.

    Tokens that were not sampled, such as a tool's output, are passed over: the next token is the next sampled one.
    """
    advantages_BT = torch.zeros_like(rewards_BT)
    next_advantage_B, next_value_B = torch.zeros_like(rewards_BT[:, 0]), torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(sampled_BT.any(0).nonzero()[:, 0].tolist()):
        sampled_B, value_B = sampled_BT[:, t], values_BT[:, t]
        advantage_B = rewards_BT[:, t] + gamma * next_value_B - value_B + gamma * lam * next_advantage_B
        advantages_BT[:, t] = advantage_B.masked_fill(~sampled_B, 0.0)
        next_advantage_B = torch.where(sampled_B, advantage_B, next_advantage_B)
        next_value_B = torch.where(sampled_B, value_B, next_value_B)
    return advantages_BT


def whitened(
    values_BT: Float[Tensor, "batch tokens"], counted_BT: Bool[Tensor, "batch tokens"], *, centred: bool
) -> Float[Tensor, "batch tokens"]:
    """The counted values' deviations from their mean over their standard deviation (n - 1), both on all ranks; without
    ``centred`` the mean is added again. 0.0 where not counted. Fewer than two, and values that are equal but for
    rounding, have no deviations. A collective."""
    values = values_BT[counted_BT].double()
    total, count = distributed.all_reduce_sum([float(values.sum()), len(values)])
    mean = total / max(count, 1)
    (squares,) = distributed.all_reduce_sum([float((values - mean).square().sum())])
    variance = squares / max(count - 1, 1)
    is_tied = variance**0.5 <= TIE_TOLERANCE * max(1.0, abs(mean))
    scale = 0.0 if is_tied else (variance + EPSILON) ** -0.5
    whitened_BT = (values_BT - mean) * scale + (0.0 if centred else mean)
    return whitened_BT.masked_fill(~counted_BT, 0.0)
