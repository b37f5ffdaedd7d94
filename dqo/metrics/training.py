"""Metrics of a training step. A metric with the same meaning as in TRL has TRL's name; docs/metrics.md defines all."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.metrics.ties import credit_deviations, group_deviations, score_deviations
from dqo.records import Experience, Rewards, Step


def describe(step: Step, alpha: float) -> dict[str, float]:
    """{name: value} of all metrics of one step, the learner's report included. The keys do not depend on the data:
    an undefined metric is NaN."""
    return {
        **_reward_metrics(step.experience, alpha),
        **_completion_metrics(step.experience),
        **_credit_metrics(step, alpha),
        **_time_metrics(step),
        **step.report,
    }


def _reward_metrics(experience: Experience, alpha: float) -> dict[str, float]:
    rewards = experience.rewards
    total_PK, valid_PK, correct_PK = rewards.total_PK.double(), rewards.valid_PK, rewards.correct_PK
    differences_PK = score_deviations(total_PK, experience.credits_PK, valid_PK, alpha)
    valid = total_PK[valid_PK]
    return {
        "reward": _mean(valid),
        "reward_std": float(valid.std()) if len(valid) > 1 else math.nan,
        "frac_reward_zero_std": _equal(group_deviations(total_PK, valid_PK)),
        "frac_score_zero_std": _equal(differences_PK),
        "correct": math.nan if correct_PK is None else _mean((correct_PK & valid_PK).float()),
        "invalid": float((~valid_PK).sum()),
        **{
            f"rewards/{name}/mean": _mean(part_PK[valid_PK & ~part_PK.isnan()])
            for name, part_PK in rewards.parts.items()
        },
    }


def _completion_metrics(experience: Experience) -> dict[str, float]:
    rollouts = experience.rollouts
    lengths_B = rollouts.sampled_BT.sum(1).float()
    valid = experience.rewards.valid_PK.tolist()
    groups = [
        {text.strip() for text, counts in zip(rollouts.texts[p * rollouts.k :], row, strict=False) if counts}
        for p, row in enumerate(valid)
    ]
    distinct = [len(group) for group in groups if group]
    return {
        "completions/mean_length": float(lengths_B.mean()),
        "completions/min_length": float(lengths_B.min()),
        "completions/max_length": float(lengths_B.max()),
        "completions/clipped_ratio": _mean((~rollouts.finished_B).float()),
        "completions/distinct": sum(distinct) / len(distinct) if distinct else math.nan,
        "completions/empty": float(rollouts.empty_PK.sum()),
        "num_tokens": float(lengths_B.sum()),
    }


def _credit_metrics(step: Step, alpha: float) -> dict[str, float]:
    experience, rollouts = step.experience, step.experience.rollouts
    rewards, valid_PK = experience.rewards, experience.rewards.valid_PK
    credits_PK = _credits_of_completions(experience)
    lengths_PK = rollouts.sampled_BT.sum(1).view(-1, rollouts.k).double()
    spread, reward_spread = _spread(credits_PK, valid_PK), _spread(rewards.total_PK, valid_PK)
    return {
        "credit": _mean(credits_PK[valid_PK]),
        "credit_spread": spread,
        "reward_spread": reward_spread,
        "spread_ratio": _ratio(alpha * spread, reward_spread),
        "credit_over_reward": _ratio(_rms(credits_PK[valid_PK]), _rms(rewards.total_PK[valid_PK])),
        "credit_wrong_share": _wrong_share(credits_PK, rewards),
        "credit_length_correlation": _correlation(
            credit_deviations(credits_PK, valid_PK), group_deviations(lengths_PK, valid_PK)
        ),
        "advantage_spread": _spread(rollouts.token_means(step.targets.advantages_BT), valid_PK),
    }


def _credits_of_completions(experience: Experience) -> Float[Tensor, "prompts k"]:
    """The credit of each completion; credits of its tokens count by their mean."""
    rollouts, tokens_BT = experience.rollouts, experience.token_credits_BT
    if tokens_BT is None:
        return experience.credits_PK
    return experience.credits_PK + rollouts.token_means(tokens_BT)


def _wrong_share(credits_PK: Float[Tensor, "prompts k"], rewards: Rewards) -> float:
    """Share of the credit that wrong completions get; of negative credits the size counts."""
    sizes_PK = credits_PK.masked_fill(~rewards.valid_PK, 0.0).abs()
    if rewards.correct_PK is None:
        return math.nan
    return _ratio(float(sizes_PK[~rewards.correct_PK].sum()), float(sizes_PK.sum()))


def _rms(values: Float[Tensor, " values"]) -> float:
    return float(values.double().square().mean().sqrt())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _correlation(first_PK: Float[Tensor, "prompts k"], second_PK: Float[Tensor, "prompts k"]) -> float:
    """Pearson's correlation of two deviations from their groups' means; NaN where one does not vary."""
    return _ratio(float((first_PK * second_PK).sum()), float(first_PK.norm() * second_PK.norm()))


def _time_metrics(step: Step) -> dict[str, float]:
    tokens = float(step.experience.rollouts.sampled_BT.sum())
    seconds = step.seconds
    return {
        "step_time": step.elapsed,
        **{f"tokens_per_second/{stage}": _rate(tokens, seconds.get(stage)) for stage in ("rollout", "learner")},
        **{f"seconds/{stage}": spent for stage, spent in seconds.items()},
    }


def _rate(amount: float, seconds: float | None) -> float:
    return amount / seconds if seconds else math.nan


def _mean(values: Float[Tensor, "..."]) -> float:
    return float(values.mean()) if values.numel() else math.nan


def _range(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> Float[Tensor, " prompts"]:
    """Largest minus smallest valid value of each group; NaN for fewer than two."""
    largest_P = values_PK.masked_fill(~valid_PK, -math.inf).amax(1)
    smallest_P = values_PK.masked_fill(~valid_PK, math.inf).amin(1)
    return torch.where(valid_PK.sum(1) > 1, largest_P - smallest_P, math.nan)


def _spread(values_PK: Float[Tensor, "prompts k"], valid_PK: Bool[Tensor, "prompts k"]) -> float:
    return float(_range(values_PK, valid_PK).nanmean())


def _equal(deviations_PK: Float[Tensor, "prompts k"]) -> float:
    """Share of groups without signal: all valid values are equal, or there are fewer than two."""
    return _mean((deviations_PK == 0).all(1).float())
