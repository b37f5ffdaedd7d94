"""``eval.novelty``: NoveltyBench's two models, and its metrics with them or without (Zhang et al. 2025, 2504.05228)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from dqo.errors import StageError
from dqo.metrics.noveltybench import distinct_k, partition, same_if_short, score_of, utility_k, without_emphasis
from dqo.models.classifier import Classifier
from dqo.models.conversation import Encoding, conversation_tokens
from dqo.models.folders import first_line
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.records import Prompt

SAME_PROBABILITY = 0.102  # more than this is the same answer (NoveltyBench's src/partition.py)
SEEN_TOKENS = 128  # of each text
# Cosine from which two texts count as the same answer without the classifier. all-MiniLM-L6-v2 agrees with the
# classifier on 79 % of 772 pairs of NoveltyBench's published answers at 0.7 (docs/evaluation.md)
SAME_COSINE = 0.7


Partition = Literal["classifier", "words and embeddings"]  # how it was decided which answers are the same


@dataclass(frozen=True, kw_only=True)
class NoveltyScore:
    """NoveltyBench's metrics of one group. Example: 10 answers in 4 classes, ``distinct_k`` is 4.0."""

    distinct_k: float  # 1 to k, higher is more diverse; NaN without answers
    utility_k: float  # 0 to 10, higher is better; NaN without a reward model
    partition: Partition


class SameAnswer:
    """Whether two texts give the same answer, by yimingzhang/deberta-v3-large-generation-similarity."""

    def __init__(self, path: str, *, device: torch.device):
        # float32 as in the original: the threshold is one on a probability
        self._classifier = Classifier(path, key="eval.novelty.classifier", device=device, dtype=torch.float32)
        if len(self._classifier.labels) != 2:
            raise self._classifier.refusal(f"has {len(self._classifier.labels)} labels, not two (different, same)")
        tokenizer = self._classifier.tokenizer
        if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None:
            raise self._classifier.refusal("its tokenizer has no [CLS] or no [SEP]")
        self._cls, self._sep = cast(int, tokenizer.cls_token_id), cast(int, tokenizer.sep_token_id)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """True where P(second label) exceeds .102. The prompt is not looked at, and the order of a pair matters."""
        if not pairs:
            return []
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        tokens = self._classifier.tokenizer(texts, add_special_tokens=False, truncation=True, max_length=SEEN_TOKENS)
        ids = dict(zip(texts, tokens["input_ids"], strict=True))
        logits_NL = self._classifier.logits([self._joined(ids[first], ids[second]) for first, second in pairs])
        return (logits_NL.softmax(dim=1)[:, 1] > SAME_PROBABILITY).tolist()

    def release(self) -> None:
        """Frees the model's memory until the next question."""
        self._classifier.release()

    def _joined(self, first: list[int], second: list[int]) -> Encoding:
        """[CLS] first [SEP] second [SEP], each already cut."""
        types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
        return {"input_ids": [self._cls, *first, self._sep, *second, self._sep], "token_type_ids": types}


class RewardModel:
    """Scores 1 to 10 of answers to a prompt, by the thresholds for Skywork-Reward-Gemma-2-27B-v0.2."""

    def __init__(self, path: str, *, device: torch.device, dtype: torch.dtype):
        self._classifier = Classifier(path, key="eval.novelty.reward_model", device=device, dtype=dtype)
        if len(self._classifier.labels) != 1:
            raise self._classifier.refusal(f"has {len(self._classifier.labels)} labels; a reward model has one")
        if not self._classifier.tokenizer.chat_template:
            raise self._classifier.refusal("its tokenizer has no chat template")

    def __call__(self, prompt: Prompt, texts: Sequence[str]) -> list[int]:
        """Prompt and answer as a conversation in the model's own chat template. Raises StageError for a prompt that the
        template refuses (Gemma's knows no system turn)."""
        try:
            tokens = [conversation_tokens(self._classifier.tokenizer, prompt, text) for text in texts]
        except TEMPLATE_ERRORS as error:
            what = f"its chat template refuses the prompt ({first_line(error)})"
            raise StageError("eval.novelty.reward_model", what, positions=[prompt.position]) from error
        limit = self._classifier.limit
        self._classifier.count_cut(sum(len(ids) > limit for ids in tokens), len(tokens))
        rewards_N = self._classifier.logits([{"input_ids": ids[:limit]} for ids in tokens])[:, 0]
        return [score_of(reward) for reward in rewards_N.tolist()]

    def release(self) -> None:
        """Frees the model's memory until the next question."""
        self._classifier.release()


class NoveltyBench:
    """distinct_k and utility_k of a prompt's completions, in the order in which they were sampled.

    Two answers of at most five words are compared by their words, longer ones by the classifier; without it by their
    embeddings' cosine, which is rough.
    """

    def __init__(self, *, same: SameAnswer | None = None, reward: RewardModel | None = None):
        self._same, self._reward = same, reward

    def __call__(
        self, prompt: Prompt, texts: Sequence[str], embeddings_KD: Float[Tensor, "k dim"] | None = None
    ) -> NoveltyScore:
        """``embeddings_KD`` are those of the texts, needed where there is no classifier. NaN without texts."""
        plain = [without_emphasis(text) for text in texts]
        pairs = [pair for pair in dict.fromkeys(combinations(plain, 2)) if same_if_short(*pair) is None]
        if self._same:
            same = self._same(pairs)
        else:
            assert embeddings_KD is not None, "without a classifier NoveltyBench compares embeddings"
            same = _alike(pairs, plain, embeddings_KD)
        answers = dict(zip(pairs, same, strict=True))
        classes = partition(texts, lambda first, text: answers[first, text])
        return NoveltyScore(
            distinct_k=distinct_k(classes),
            utility_k=self._utility(prompt, texts, classes),
            partition=self.partition,
        )

    @property
    def partition(self) -> Partition:
        """How it is decided which answers are the same."""
        return "classifier" if self._same else "words and embeddings"

    def release(self) -> None:
        """Frees the models' memory until the next question."""
        for model in (self._same, self._reward):
            if model:
                model.release()

    def _utility(self, prompt: Prompt, texts: Sequence[str], classes: Sequence[int]) -> float:
        """Asks for the first answer of each class alone: the others count 0."""
        if self._reward is None or not texts:
            return math.nan
        firsts = [classes.index(number) for number in dict.fromkeys(classes)]
        scores = [math.nan] * len(texts)
        for i, score in zip(firsts, self._reward(prompt, [texts[i] for i in firsts]), strict=True):
            scores[i] = score
        return utility_k(classes, scores)


def _alike(pairs: Sequence[tuple[str, str]], texts: Sequence[str], embeddings_KD: Float[Tensor, "k dim"]) -> list[bool]:
    rows = {text: row for row, text in reversed([*enumerate(texts)])}  # equal texts: the first one's
    cosines_KK = normalize(embeddings_KD.float(), dim=1) @ normalize(embeddings_KD.float(), dim=1).T
    return [first == text or bool(cosines_KK[rows[first], rows[text]] >= SAME_COSINE) for first, text in pairs]
