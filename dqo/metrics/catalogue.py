"""All metrics of one prompt's completions that need no scorer: ``dqo.metrics.names`` lists them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dqo.answers.emptiness import is_empty
from dqo.metrics.diversity import cosine_distance, distinct_n, logdet, vendi
from dqo.metrics.lexical import compression_ratio, ead
from dqo.metrics.modes import cover_at, effective_modes, pcmd, rarefaction
from dqo.metrics.names import COVERED, DISTINCT_OF, evaluation_metrics, metric_of
from dqo.metrics.overlap import self_bleu_diversity, self_rouge_diversity
from dqo.metrics.quality import distinct_correct_of, pass_at
from dqo.records import Answers


@dataclass(frozen=True, kw_only=True)
class Group:
    """Completions that are compared with one another."""

    texts: Sequence[str]
    keys: Sequence[str]
    embeddings_KD: Float[Tensor, "k dim"] | None  # None: no chosen metric needs them

    def embedded(self) -> Float[Tensor, "k dim"]:
        assert self.embeddings_KD is not None, "names.needs_of says which families need embeddings"
        return self.embeddings_KD


# by the name, or for a name with a number by what stands before it: the functions then get the number
DIVERSITY: dict[str, Callable[[Group, str], float]] = {
    "cosine_distance": lambda group, _: cosine_distance(group.embedded()),
    "logdet": lambda group, _: logdet(group.embedded()),
    "vendi": lambda group, _: vendi(group.embedded()),
    "vendi@": lambda group, order: vendi(group.embedded(), float(order)),
    "distinct_1": lambda group, _: distinct_n(group.texts, 1),
    "distinct_2": lambda group, _: distinct_n(group.texts, 2),
    "distinct_4": lambda group, _: distinct_n(group.texts, 4),
    "self_bleu_diversity": lambda group, _: self_bleu_diversity(group.texts),
    "self_rouge_diversity": lambda group, _: self_rouge_diversity(group.texts),
    "ead": lambda group, _: ead(group.texts),
    "compression_ratio": lambda group, _: compression_ratio(group.texts),
    "pcmd": lambda group, _: pcmd(group.keys),
    "rarefaction@": lambda group, r: rarefaction(group.keys, int(r)),
}
FORM: dict[str, Callable[[Answers], Sequence[bool] | Sequence[int] | None]] = {
    "valid": lambda answers: answers.valid,
    "finished": lambda answers: answers.finished,
    "mean_length": lambda answers: answers.lengths,
}


def compared_rows(answers: Answers) -> list[int]:
    """The completions whose diversity is measured: valid ones that are not empty, since an embedding of no text is
    unlike any other."""
    return [i for i, valid in enumerate(answers.valid) if valid and not is_empty(answers.texts[i])]


def correct_rows(answers: Answers) -> list[int] | None:
    """The correct ones among them; None: correctness is not defined."""
    if answers.correct is None:
        return None
    return [i for i, correct in enumerate(answers.correct) if correct and not is_empty(answers.texts[i])]


def compute(
    answers: Answers, embeddings_KD: Float[Tensor, "k dim"] | None, families: Sequence[str]
) -> dict[str, float]:
    """The metrics of the chosen families but for those that ask a scorer or are computed from means; NaN where
    undefined. ``embeddings_KD`` may be None where ``names.needs_of(families)`` has no encoder."""
    names = evaluation_metrics(len(answers.texts), families)
    metrics = _quality(answers, [name for name in names if metric_of(name).kind == "quality"])
    metrics |= _diversity(answers, embeddings_KD, [name for name in names if _base(name)[0] in DIVERSITY])
    if "compared/correct" in names:
        correct = correct_rows(answers)
        metrics["compared/correct"] = math.nan if correct is None else float(len(correct) > 1)
    return metrics | {name: _mean(FORM[name](answers)) for name in names if name in FORM}


def with_derived(means: dict[str, float]) -> dict[str, float]:
    """The means, and what is computed from means."""
    derived = {
        name.replace("pcmd", "effective_modes"): effective_modes(value)
        for name, value in means.items()
        if name in ("pcmd", "pcmd/correct")
    }
    return means | derived


def _quality(answers: Answers, names: Sequence[str]) -> dict[str, float]:
    known = [reward for reward in answers.rewards or () if not math.isnan(reward)]
    of_rewards = {
        "reward": sum(known) / len(known) if known else math.nan,
        "reward_best": max(known, default=math.nan),
    }
    return {name: of_rewards[name] if name in of_rewards else _of_correct(answers, name) for name in names}


def _of_correct(answers: Answers, name: str) -> float:
    """pass@n, distinct_correct, distinct_correct@n or cover@tau of a prompt."""
    if answers.correct is None:
        return math.nan
    samples, (base, number) = len(answers.texts), _base(name)
    right = [key for key, correct in zip(answers.keys, answers.correct, strict=True) if correct]
    if base == "pass@":
        return pass_at(int(number), samples=samples, correct=len(right))
    if base == "cover@":
        return cover_at(COVERED, samples=samples, correct=len(right))
    return distinct_correct_of(int(number or min(DISTINCT_OF, samples)), samples=samples, keys=right)


def _diversity(answers: Answers, embeddings_KD: Tensor | None, names: Sequence[str]) -> dict[str, float]:
    """Diversity of the compared completions, and under ``…/correct`` of the correct ones, so that noise cannot pass for
    diversity."""
    everything, correct = _group(answers, embeddings_KD, compared_rows(answers)), correct_rows(answers)
    right = None if correct is None else _group(answers, embeddings_KD, correct)
    metrics = {}
    for name in names:
        (base, number), group = _base(name), right if name.endswith("/correct") else everything
        metrics[name] = math.nan if group is None else DIVERSITY[base](group, number)
    return metrics


def _group(answers: Answers, embeddings_KD: Tensor | None, rows: list[int]) -> Group:
    return Group(
        texts=[answers.texts[i] for i in rows],
        keys=[answers.keys[i] for i in rows],
        embeddings_KD=None if embeddings_KD is None else embeddings_KD[rows],
    )


def _base(name: str) -> tuple[str, str]:
    """(name in the tables above, number): ``vendi@2/correct`` gives ``("vendi@", "2")``."""
    base, at, number = name.removesuffix("/correct").partition("@")
    return f"{base}{at}", number


def _mean(values: Sequence[bool] | Sequence[int] | None) -> float:
    return math.nan if values is None else float(torch.tensor(values, dtype=torch.float32).mean())
