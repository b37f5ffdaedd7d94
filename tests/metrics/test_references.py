"""The project's metrics against code and definitions of others: one line a metric, checked on every group."""

import itertools
import math
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import passk_inference
import pytest
import scipy
import torch
from modebench import metrics as modebench
from nltk.util import ngrams
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from dqo.metrics.diversity import cosine_distance, distinct_n, logdet, vendi, words
from dqo.metrics.intervals import mean_interval, paired_interval, pass_curve, pass_difference
from dqo.metrics.lexical import compression_ratio, ead
from dqo.metrics.modes import cover_at, effective_modes, pcmd, rarefaction
from dqo.metrics.noveltybench import distinct_k, partition, score_of, utility_k
from dqo.metrics.overlap import self_bleu_diversity, self_rouge_diversity
from dqo.metrics.quality import distinct_correct_of, pass_at

SCORES = [3, 10, 1, 7, 9, 2, 8, 5]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Completions of a prompt: texts, their answers' keys (None: wrong), and embeddings."""

    texts: tuple[str, ...]
    answers: tuple[str | None, ...]
    embeddings: torch.Tensor

    @property
    def keys(self) -> list[str]:
        return [answer for answer in self.answers if answer is not None]

    @property
    def array(self) -> np.ndarray:
        """Unit embeddings."""
        array = self.embeddings.double().numpy()
        return array / np.linalg.norm(array, axis=1, keepdims=True)

    @property
    def kernel(self) -> np.ndarray:
        return self.array @ self.array.T


def embeddings(texts: int, seed: int) -> torch.Tensor:
    """Unit vectors in float32; the last two are equal."""
    drawn = torch.randn(texts, 16, generator=torch.Generator().manual_seed(seed))
    drawn[-1] = drawn[-2]
    return torch.nn.functional.normalize(drawn, dim=-1)


GROUPS = {
    "sentences": Group(
        texts=(
            "The cat sat on the mat, and the dog on the cat.",
            "The cat sat on a mat. The dog sat on the cat!",
            "A dog and a cat: both sat.",
            "Nothing here is like the others",
            "The cat sat on the mat, and the dog on the cat.",
        ),
        answers=("cat", "cat", "dog", None, "cat"),
        embeddings=embeddings(5, 0),
    ),
    "single words": Group(
        texts=("Paris", "Paris.", "**Lima**", "Lima", "paris", "Oslo"),
        answers=("paris", "paris", "lima", "lima", "paris", None),
        embeddings=embeddings(6, 1),
    ),
    "scripts": Group(
        texts=(
            "¿Qué ciudad? Quito, Ñuñoa",
            "Москва и Київ — 2 города",
            "東京 東京 大阪",
            "東京 大阪 東京 京都 Quito",
            "a b a b a b a",
        ),
        answers=("quito", "moscow", "tokyo", "tokyo", None),
        embeddings=embeddings(5, 2),
    ),
    "random letters": Group(
        texts=tuple("".join(row) for row in np.random.default_rng(3).choice([*"abcde", " "], size=(8, 60))),
        answers=("x", "y", "z", "x", "w", None, None, "v"),
        embeddings=embeddings(8, 3),
    ),
}  # fmt: skip


class Spaces:
    """rouge-score's tokenizer for texts that are split already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def distinct(group: Group, n: int) -> float:
    grams = [gram for text in group.texts for gram in ngrams(words(text), n)]
    return len({*grams}) / len(grams)


def self_bleu(group: Group) -> float:
    split = [" ".join(words(text)) for text in group.texts]
    bleu = BLEU(tokenize="none", effective_order=True)  # the other settings are sacrebleu's defaults
    scores = [bleu.sentence_score(text, split[:i] + split[i + 1 :]).score for i, text in enumerate(split)]
    return 1 - sum(scores) / len(scores) / 100


def self_rouge(group: Group) -> float:
    scorer = RougeScorer(["rougeL"], tokenizer=Spaces())
    pairs = itertools.combinations([" ".join(words(text)) for text in group.texts], 2)
    return 1 - float(np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in pairs]))


def adjusted(group: Group) -> float:
    grams = [gram for text in group.texts for gram in ngrams(words(text), 1)]
    unseen = Fraction(50_256, 50_257) ** len(grams)
    return len({*grams}) / float(50_257 * (1 - unseen))


def compressed(group: Group) -> float:
    data = " ".join(group.texts).encode()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: gzip's header
    return len(data) / len(packer.compress(data) + packer.flush())


def hill(group: Group, order: float) -> float:
    shares = np.linalg.svd(group.array / math.sqrt(len(group.texts)), compute_uv=False) ** 2
    return float(np.sum(shares[shares > 1e-9] ** order) ** (1 / (1 - order)))


def over_subsets(group: Group, n: int, value: Callable[[set[str | None]], float]) -> float:
    return float(np.mean([value({*subset} - {None}) for subset in itertools.combinations(group.answers, n)]))


def novelty_classes(group: Group, same: Callable[[str, str], bool]) -> list[int]:
    """As in NoveltyBench's src/partition.py: each class takes all later answers that are like its first one."""
    texts = [text.replace("**", "") for text in group.texts]
    classes: list[int | None] = [None] * len(texts)
    number = 0
    for i, first in enumerate(texts):
        if classes[i] is not None:
            continue
        for j in range(i, len(texts)):
            one, other = first.strip().lower().split(), texts[j].strip().lower().split()
            longest = max(len(one), len(other))
            alike = len({*one} & {*other}) * 2 >= longest if longest <= 5 else same(first, texts[j])
            if classes[j] is None and (alike or i == j):
                classes[j] = number
        number += 1
    return [int(each) for each in classes if each is not None]


def shares_letter(one: str, other: str) -> bool:
    return one[0] == other[0]


def utility(group: Group) -> float:
    classes = novelty_classes(group, shares_letter)
    gained = [
        score if classes.index(each) == i else 0 for i, (each, score) in enumerate(zip(classes, SCORES, strict=False))
    ]
    return float(np.average(gained, weights=0.8 ** np.arange(len(classes))))


# metric: (ours, the reference)
REFERENCES: dict[str, tuple[Callable[[Group], Any], Callable[[Group], Any]]] = {
    "distinct_1": (lambda g: distinct_n(g.texts, 1), lambda g: distinct(g, 1)),  # nltk's n-grams
    "distinct_2": (lambda g: distinct_n(g.texts, 2), lambda g: distinct(g, 2)),
    "self_bleu_diversity": (lambda g: self_bleu_diversity(g.texts), self_bleu),  # sacrebleu
    "self_rouge_diversity": (lambda g: self_rouge_diversity(g.texts), self_rouge),  # rouge-score
    "ead": (lambda g: ead(g.texts), adjusted),  # exact fractions
    "compression_ratio": (lambda g: compression_ratio(g.texts), compressed),  # zlib
    "cosine_distance": (
        lambda g: cosine_distance(g.embeddings),
        lambda g: scipy.spatial.distance.pdist(g.array, "cosine").mean(),
    ),
    "logdet": (lambda g: logdet(g.embeddings), lambda g: np.linalg.slogdet(g.kernel + np.eye(len(g.texts)))[1]),
    "vendi": (
        lambda g: vendi(g.embeddings),
        lambda g: math.exp(scipy.stats.entropy(scipy.linalg.svdvals(g.array) ** 2)),
    ),
    "vendi@0": (lambda g: vendi(g.embeddings, 0.0), lambda g: np.linalg.matrix_rank(g.array)),
    "vendi@0.5": (lambda g: vendi(g.embeddings, 0.5), lambda g: hill(g, 0.5)),
    "vendi@2": (
        lambda g: vendi(g.embeddings, 2.0),
        lambda g: len(g.texts) ** 2 / np.linalg.norm(g.kernel, "fro") ** 2,
    ),
    "vendi@inf": (
        lambda g: vendi(g.embeddings, math.inf),
        lambda g: len(g.texts) / np.linalg.norm(g.kernel, 2),
    ),
    "pass@1": (
        lambda g: pass_at(1, samples=len(g.texts), correct=len(g.keys)),
        lambda g: over_subsets(g, 1, bool),
    ),
    "pass@3": (
        lambda g: pass_at(3, samples=len(g.texts), correct=len(g.keys)),
        lambda g: passk_inference.pass_at_k([len(g.keys)], len(g.texts), 3)[0],
    ),
    "distinct_correct@3": (
        lambda g: distinct_correct_of(3, samples=len(g.texts), keys=g.keys),
        lambda g: over_subsets(g, 3, len),
    ),
    "pcmd": (lambda g: pcmd(g.keys), lambda g: modebench.mode_diversity(Counter(g.keys))),
    "effective_modes": (
        lambda g: effective_modes(pcmd(g.keys)),
        lambda g: modebench.effective_modes(modebench.mode_diversity(Counter(g.keys))),
    ),
    "rarefaction@3": (
        lambda g: rarefaction(g.keys, 3),
        lambda g: modebench.rarefied_distinct(Counter(g.keys), 3),
    ),
    "cover@0.6": (
        lambda g: cover_at(0.6, samples=len(g.texts), correct=len(g.keys)),
        lambda g: sum(answer is not None for answer in g.answers) * 10 >= 6 * len(g.answers),
    ),
    "distinct_k": (
        lambda g: distinct_k(partition(g.texts, shares_letter)),
        lambda g: max(novelty_classes(g, shares_letter)) + 1,
    ),
    "utility_k": (
        lambda g: utility_k(partition(g.texts, shares_letter), SCORES[: len(g.texts)]),
        utility,
    ),
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("metric", REFERENCES)
def test_metric_equals_its_reference(metric, group):
    ours, reference = REFERENCES[metric]
    value = ours(GROUPS[group])
    assert math.isfinite(value)
    assert value == pytest.approx(float(reference(GROUPS[group])), abs=1e-6)  # embeddings are float32


def test_distinct_4():  # the group of single words has no 4-grams
    for name in ("sentences", "scripts", "random letters"):
        assert distinct_n(GROUPS[name].texts, 4) == pytest.approx(distinct(GROUPS[name], 4))


def test_scores_of_rewards_lie_between_the_thresholds():
    for reward in np.linspace(-9, 0, 145):  # hits several thresholds exactly
        assert score_of(reward) == np.digitize(
            reward, [-7.71875, -6.28125, -6, -5.71875, -5.5, -5, -4.375, -3.4375, -2.046875], right=True
        ) + 1  # fmt: skip


@pytest.mark.parametrize("prompts", [8, 60])
def test_intervals_equal_scipys_bootstrap(prompts):
    values, others = np.random.default_rng(prompts).exponential(size=(2, prompts)).tolist()
    tail = scipy.stats.norm.cdf(
        math.sqrt(prompts / (prompts - 1)) * scipy.stats.t.ppf(0.025, prompts - 1)
    )  # Hesterberg's
    differences = np.subtract(values, others)
    for interval, sample in ((mean_interval(values), values), (paired_interval(values, others), differences)):
        expected = scipy.stats.bootstrap(
            (sample,), np.mean, confidence_level=1 - 2 * tail, method="percentile", n_resamples=20_000, rng=1
        )
        bounds = (interval.low, interval.high)
        assert bounds == pytest.approx(tuple(expected.confidence_interval), abs=0.15 * expected.standard_error * 2)


def test_pass_curves_equal_the_package_and_the_definition():
    counts, others = np.random.default_rng(0).integers(0, 9, size=(2, 30)).tolist()
    for curve, sign in ((pass_curve(counts, 8), 0), (pass_difference(counts, others, 8), 1)):
        expected = [
            np.mean([
                pass_at(k, samples=8, correct=one) - sign * pass_at(k, samples=8, correct=other)
                for one, other in zip(counts, others, strict=True)
            ])
            for k in range(1, 9)
        ]  # fmt: skip
        assert curve.mean == pytest.approx(expected) and curve.area == pytest.approx(np.mean(expected))
    band = passk_inference.compare(others, 8, counts, 8)
    difference = pass_difference(counts, others, 8)
    assert difference.low == pytest.approx(band["lower"]) and difference.high == pytest.approx(band["upper"])
