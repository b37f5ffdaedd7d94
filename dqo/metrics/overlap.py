"""How much the completions of one prompt overlap in wording. Texts are split as by ``diversity.words``; texts without
a word are left out. Both functions are NaN for fewer than two texts, and 0 to 1, higher is more diverse."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations

from dqo.metrics.diversity import words
from dqo.metrics.rouge import rouge_l_of, word_places


def self_bleu_diversity(texts: Sequence[str], max_n: int = 4) -> float:
    """1 - the mean BLEU of each text with all others as its references (self-BLEU, Zhu et al. 2018, 1802.01886).

    Sentence BLEU as sacrebleu computes it, with its defaults: an order without a match counts as half, a quarter, … of
    one match (``smooth_method="exp"``), a text shorter than ``max_n`` words uses the orders it has
    (``effective_order``), and the brevity penalty takes the closest length. Falls with the number of texts, since each
    one has more references: compare only groups of equal size.
    """
    tokens = [split for split in map(words, texts) if split]
    if len(tokens) < 2:
        return math.nan
    totals, matches = zip(*(_matches(tokens, n) for n in range(1, max_n + 1)), strict=True)
    scores = [
        _bleu(tokens, i, [per_text[i] for per_text in matches], [per_text[i] for per_text in totals])
        for i in range(len(tokens))
    ]
    return 1 - sum(scores) / len(scores)


def self_rouge_diversity(texts: Sequence[str]) -> float:
    """1 - the mean ROUGE-L over all pairs of texts (F-measure, 2 · LCS / (words of both)).

    The mean over pairs, as the homogenization score of Padmakumar & He 2024 (2309.05196), not the most similar other
    text. What the paper's "1 - self-ROUGE" takes is not known to us.
    """
    tokens = [split for split in map(words, texts) if split]
    if len(tokens) < 2:
        return math.nan
    places = [word_places(split) for split in tokens]
    pairs = [rouge_l_of(places[i], tokens[i], tokens[j]) for i, j in combinations(range(len(tokens)), 2)]
    return 1 - sum(pairs) / len(pairs)


def _matches(tokens: Sequence[Sequence[str]], n: int) -> tuple[list[int], list[int]]:
    """For each text: its number of n-grams, and how many of them its references match.

    BLEU clips an n-gram's count at its largest count in one reference. So its second occurrence in a text matches if
    another text, too, has a second one: the pairs (n-gram, number of the occurrence) that two texts share.
    """
    occurrences = [_occurrences(split, n) for split in tokens]
    texts_with = Counter(occurrence for found in occurrences for occurrence in found)
    return [len(found) for found in occurrences], [
        sum(texts_with[occurrence] > 1 for occurrence in found) for found in occurrences
    ]


def _occurrences(split: Sequence[str], n: int) -> list[Hashable]:
    """A text's n-grams, each with the number of times that it came before."""
    before: dict[tuple[str, ...], int] = {}
    found: list[Hashable] = []
    for gram in zip(*(split[start:] for start in range(n)), strict=False):
        number = before.get(gram, 0)
        found.append((gram, number))
        before[gram] = number + 1
    return found


def _bleu(tokens: Sequence[Sequence[str]], i: int, matches: Sequence[int], totals: Sequence[int]) -> float:
    """Sentence BLEU of text i; ``matches`` and ``totals`` of the orders 1, 2, …"""
    if not any(matches):
        return 0.0
    logs, half = [], 1.0
    for matched, total in zip(matches, totals, strict=True):
        if not total:
            break
        half = half if matched else half / 2
        logs.append(math.log((matched or half) / total))
    length = len(tokens[i])
    reference = min((abs(len(split) - length), len(split)) for j, split in enumerate(tokens) if j != i)[1]
    return math.exp(min(0.0, 1 - reference / length) + sum(logs) / len(logs))
