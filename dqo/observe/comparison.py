"""Which numbers of two evaluations can be compared: a resumed run may have another ``eval.n`` or ``eval.prompts``."""

import math
from collections.abc import Sequence

from dqo.evaluation import Evaluation
from dqo.metrics.names import comparable
from dqo.records import Prompt


def compared(before: Evaluation, after: Evaluation) -> dict[str, float]:
    """The metrics of ``before``; NaN for a metric that cannot be compared with that of ``after``."""
    same = same_prompts(before.prompts, after.prompts)
    return {
        key: value if same and comparable(key, before.n, after.n) else math.nan for key, value in before.metrics.items()
    }


def difference(before: Evaluation, *, n: int, prompts: Sequence[Prompt]) -> str | None:
    """In one line, what keeps an evaluation with ``n`` completions of each of ``prompts`` from being compared with
    ``before``; None if nothing does."""
    first, now = len(before.prompts), len(prompts)
    if not same_prompts(before.prompts, prompts):
        counts = f"{first} prompts against {now}; type eval.prompts={first} to measure the same ones"
        return f"before and after are not compared: {'other held-out prompts' if first == now else counts}"
    if before.n != n:
        return (
            f"only metrics that do not depend on n are compared: n = {before.n} completions of each prompt against "
            f"n = {n}; type eval.n={before.n} to compare all"
        )
    return None


def same_prompts(some: Sequence[Prompt], others: Sequence[Prompt]) -> bool:
    """Whether two evaluations have the same prompts at the same positions."""
    return sorted((p.position, p.text) for p in some) == sorted((p.position, p.text) for p in others)
