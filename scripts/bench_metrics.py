"""CPU time of an evaluation's metrics, by family, and against the packages that compute the same, for
docs/performance.md.

    python scripts/bench_metrics.py --json metrics.json

Medians of the rounds; ours and the peer take turns. Peers are slow, so they get the first ``--peer-prompts`` prompts.
CPU time, which other processes change little; still refuses to start on a busy machine.
"""

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import measuring
import numpy as np
import scipy
import torch
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from dqo.metrics.diversity import cosine_distance, distinct_n, logdet, vendi, words
from dqo.metrics.intervals import mean_interval, pass_curve
from dqo.metrics.lexical import compression_ratio, ead
from dqo.metrics.modes import pcmd, rarefaction
from dqo.metrics.overlap import self_bleu_diversity, self_rouge_diversity

Texts = list[str]
Embeddings = torch.Tensor
EQUAL = 1e-9


def main() -> int:
    """Exit code: 0 if each family agrees with its peer and is faster, else 1."""
    parser = measuring.parser(__doc__, threads=1)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--completions", type=int, default=10)
    parser.add_argument("--words", type=int, default=200, help="of a completion")
    parser.add_argument("--peer-prompts", type=int, default=3)
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    groups = make_groups(arguments.prompts, arguments.completions, arguments.words)
    rows = [
        measure(name, ours, peers.get(name), groups, arguments.rounds, arguments.peer_prompts)
        for name, ours in families.items()
    ]
    rows += intervals(arguments.prompts, arguments.completions, arguments.rounds)
    measuring.write(arguments.json, machine=machine, arguments=vars(arguments), rows=rows)
    return 0 if all(row["met"] for row in rows) else 1


def make_groups(prompts: int, completions: int, length: int) -> list[tuple[Texts, Embeddings]]:
    """Groups of completions that share part of their wording: half of a completion's pieces of eight words come from
    its prompt's own ten, the others are drawn by word from a vocabulary whose frequencies fall as in prose."""
    generator = random.Random(0)
    vocabulary = [f"w{i}" for i in range(20_000)]
    common = list(itertools.accumulate(1 / (i + 3) for i in range(len(vocabulary))))

    def draw() -> str:
        return " ".join(generator.choices(vocabulary, cum_weights=common, k=8))

    groups = []
    for prompt in range(prompts):
        shared = [draw() for _ in range(10)]
        texts = [
            " ".join(generator.choice(shared) if generator.random() < 0.5 else draw() for _ in range(length // 8)) + "."
            for _ in range(completions)
        ]
        torch.manual_seed(prompt)
        groups.append((texts, torch.nn.functional.normalize(torch.randn(completions, 384), dim=-1)))
    return groups


def keys(texts: Sequence[str]) -> list[str]:
    return [text[:2] for text in texts]


families: dict[str, Callable[[Texts, Embeddings], object]] = {
    "distinct_1, _2, _4": lambda texts, _: [distinct_n(texts, n) for n in (1, 2, 4)],
    "self_bleu_diversity": lambda texts, _: self_bleu_diversity(texts),
    "self_rouge_diversity": lambda texts, _: self_rouge_diversity(texts),
    "ead": lambda texts, _: ead(texts),
    "compression_ratio": lambda texts, _: compression_ratio(texts),
    "pcmd, rarefaction": lambda texts, _: (pcmd(keys(texts)), rarefaction(keys(texts), 5)),
    "cosine_distance": lambda _, embeddings: cosine_distance(embeddings),
    "logdet": lambda _, embeddings: logdet(embeddings),
    "vendi, vendi@2": lambda _, embeddings: (vendi(embeddings), vendi(embeddings, 2.0)),
}


def sacrebleu(texts: Texts, _: Embeddings) -> float:
    """1 - self-BLEU by sacrebleu, of the same words."""
    split = [" ".join(words(text)) for text in texts]
    bleu = BLEU(tokenize="none", effective_order=True)
    scores = [bleu.sentence_score(text, split[:i] + split[i + 1 :]).score for i, text in enumerate(split)]
    return 1 - sum(scores) / len(scores) / 100


class Spaces:
    """rouge-score's tokenizer for texts that are split already."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def rouge_score(texts: Texts, _: Embeddings) -> float:
    """1 - self-ROUGE-L by rouge-score, of the same words."""
    scorer = RougeScorer(["rougeL"], tokenizer=Spaces())
    pairs = itertools.combinations([" ".join(words(text)) for text in texts], 2)
    scores = [scorer.score(*pair)["rougeL"].fmeasure for pair in pairs]
    return 1 - sum(scores) / len(scores)


peers = {"self_bleu_diversity": sacrebleu, "self_rouge_diversity": rouge_score}


def measure(
    name: str,
    ours: Callable[[Texts, Embeddings], object],
    peer: Callable[[Texts, Embeddings], float] | None,
    groups: Sequence[tuple[Texts, Embeddings]],
    rounds: int,
    peer_prompts: int,
) -> dict:
    """Median CPU milliseconds a prompt, and how many times longer the peer takes; prints them as a row."""
    sides = {"ours": (ours, groups)} | ({"peer": (peer, groups[:peer_prompts])} if peer else {})
    if peer:
        differences = [abs(float(ours(*group)) - peer(*group)) for group in groups[:peer_prompts]]  # type: ignore[arg-type]
        assert max(differences) < EQUAL, f"{name} differs from its peer by {max(differences)}"
    ms: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (call, given) in sides.items():
            ms[side].append(cpu_ms(lambda call=call, given=given: [call(*group) for group in given]) / len(given))
    return report(name, ms)


def intervals(prompts: int, completions: int, rounds: int) -> list[dict]:
    """The statistics over prompts: once an evaluation, not once a prompt."""
    generator = np.random.default_rng(0)
    values, correct = generator.random(prompts), generator.integers(0, completions + 1, prompts).tolist()
    listed = values.tolist()
    sides: dict[str, dict[str, Callable[[], object]]] = {
        "mean_interval (once)": {
            "ours": lambda: mean_interval(listed),
            "peer": lambda: scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=2000, rng=0),
        },
        "pass_curve (once)": {"ours": lambda: pass_curve(correct, completions)},
    }
    return [
        report(name, {side: [cpu_ms(call) for _ in range(rounds)] for side, call in calls.items()})
        for name, calls in sides.items()
    ]


def report(name: str, ms: dict[str, list[float]]) -> dict:
    median = {side: statistics.median(taken) for side, taken in ms.items()}
    ratio = median["peer"] / median["ours"] if "peer" in median else None
    against = f"  peer {median['peer']:>8.2f} ms, {ratio:.1f}×" if ratio else ""
    print(f"{name:<22} {median['ours']:>8.2f} ms{against}", flush=True)
    return {"family": name, "ms": median, "faster_than_peer": ratio, "met": ratio is None or ratio >= 1}


def cpu_ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    sys.exit(main())
