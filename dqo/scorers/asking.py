"""What scorers say of judged completions: the metrics that need a classifier, a reward model or a judge."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from dqo.metrics.catalogue import compared_rows, correct_rows
from dqo.metrics.names import evaluation_metrics, metric_of
from dqo.records import Answers
from dqo.scorers.bundle import Scorers


def ask(
    scorers: Scorers, groups: Sequence[Answers], embeddings_PKD: Float[Tensor, "prompts k dim"] | None,
    families: Sequence[str],
) -> list[dict[str, float]]:  # fmt: skip
    """The chosen families' metrics of each group that ask a scorer; NaN where undefined, or where the scorer is not
    there. Raises StageError for a service that is down."""
    chosen = {metric_of(name).family for name in evaluation_metrics(len(groups[0].texts), families)}
    metrics: list[dict[str, float]] = [{} for _ in groups]
    for rows_of, suffix in ((compared_rows, ""), (correct_rows, "/correct")):
        texts = [_texts(group, rows_of(group)) for group in groups]
        if "nli_disagreement" in chosen:
            for found, some in zip(metrics, texts, strict=True):
                found[f"nli_disagreement{suffix}"] = scorers.nli(some) if scorers.nli and some else math.nan
        if "judge_diversity" in chosen:
            for found, (mean, variance) in zip(metrics, _judged(scorers, groups, texts), strict=True):
                found |= {f"judge_diversity{suffix}": mean, f"judge_variance{suffix}": variance}
    if "noveltybench" in chosen:
        for p, (found, group) in enumerate(zip(metrics, groups, strict=True)):
            score = scorers.novelty(group.prompt, group.texts, None if embeddings_PKD is None else embeddings_PKD[p])
            found |= {"distinct_k": score.distinct_k, "utility_k": score.utility_k}
    return metrics


def _texts(group: Answers, rows: Sequence[int] | None) -> list[str]:
    return [group.texts[i] for i in rows or ()]


def _judged(scorers: Scorers, groups: Sequence[Answers], texts: Sequence[Sequence[str]]) -> list[tuple[float, float]]:
    """(mean, variance) of the judge's answers about each group; it is asked about two texts or more."""
    asked = [p for p, some in enumerate(texts) if len(some) > 1] if scorers.judge else []
    scores = scorers.judge.ask([(groups[p].prompt, texts[p]) for p in asked]) if scorers.judge and asked else []
    known = {p: (score.mean, score.variance) for p, score in zip(asked, scores, strict=True)}
    return [known.get(p, (math.nan, math.nan)) for p in range(len(groups))]
