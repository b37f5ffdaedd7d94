"""``eval.nli``: how much the completions of a prompt contradict one another, by a natural-language-inference model."""

import math
from collections.abc import Sequence
from itertools import permutations

import torch

from dqo.models.classifier import Classifier

REMEMBERED = 20_000  # pairs: those of a chunk of prompts, whose correct completions are asked about after all of them
SCORES = {"contradict": 1.0, "entail": -1.0}  # how the labels begin; any other label is neutral, and 0


class NliDisagreement:
    """Mean over the ordered pairs of a group of +1 for contradiction, 0 for neutral, -1 for entailment.

    In [-1, 1], higher is more diverse. Stasaski & Hearst 2022 (2205.01497), "baseline NLI diversity": the predicted
    class counts and not its probability, and both directions of a pair are asked. The paper has the sum over the
    n (n - 1) pairs; the mean does not grow with n.
    """

    def __init__(self, path: str, *, device: torch.device, dtype: torch.dtype):
        self._classifier = Classifier(path, key="eval.nli", device=device, dtype=dtype)
        labels = [label.strip().lower() for label in self._classifier.labels]
        for start in SCORES:
            if sum(label.startswith(start) for label in labels) != 1:
                raise self._classifier.refusal(
                    f"its labels (id2label in config.json) are {', '.join(self._classifier.labels)}; one has to begin "
                    "with entail and one with contradict"
                )
        self._remembered: dict[tuple[str, str], float] = {}
        self._score_by_label = [next((SCORES[s] for s in SCORES if label.startswith(s)), 0.0) for label in labels]

    def __call__(self, texts: Sequence[str]) -> float:
        """NaN for fewer than two texts. Equal pairs are asked once."""
        pairs = list(permutations(texts, 2))
        if not pairs:
            return math.nan
        if len(self._remembered) > REMEMBERED:
            self._remembered.clear()
        if asked := [pair for pair in dict.fromkeys(pairs) if pair not in self._remembered]:
            labels = self._classifier.pair_logits(asked).argmax(dim=1).tolist()
            self._remembered |= {pair: self._score_by_label[n] for pair, n in zip(asked, labels, strict=True)}
        return sum(self._remembered[pair] for pair in pairs) / len(pairs)

    def release(self) -> None:
        """Frees the model's memory until the next question."""
        self._classifier.release()
