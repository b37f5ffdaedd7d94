"""``rollout=fake``: random words of the tokenizer instead of a model, so that a whole pipeline runs in a second."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from dqo.ranges import CompletionLength
from dqo.records import Prompt, Rollouts
from dqo.stages import Weights


class Fake:
    """Samples completions of 1 to ``max_completion_length`` tokens, end token included. A share ``cut`` of them is cut
    by length. Log-probabilities are the ones of a uniform policy."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_completion_length: CompletionLength,
        cut: Annotated[float, Field(ge=0, le=1, examples=[0.1])],
    ):
        self._tokenizer, self._max_length, self._cut, self._version = tokenizer, max_completion_length, cut, 0
        tokens = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        self._words = [token for token in tokens if _is_word(str(tokenizer.decode([token])))] or tokens

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """One record per group, in the order of the prompts."""
        for prompt in prompts:
            yield self._group(prompt, [random.Random(f"{seed} {prompt.position} {i}") for i in range(k)])

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Reads the weights to the end, since producing them is a collective, and keeps the version."""
        for _ in weights:
            pass
        self._version = version

    def pause(self) -> None:
        """Does nothing."""

    def _group(self, prompt: Prompt, generators: Sequence[random.Random]) -> Rollouts:
        finished = [generator.random() >= self._cut for generator in generators]
        completions = [
            generator.choices(self._words, k=generator.randrange(self._max_length) if done else self._max_length)
            for generator, done in zip(generators, finished, strict=True)
        ]
        end = [self._tokenizer.eos_token_id]
        rows = [
            torch.tensor([*prompt.tokens, *completion, *end * done])
            for completion, done in zip(completions, finished, strict=True)
        ]
        lengths_B = torch.tensor([len(row) for row in rows])
        tokens_BT = pad_sequence(rows, batch_first=True)
        columns_T = torch.arange(tokens_BT.shape[1])
        sampled_BT = (columns_T >= len(prompt.tokens)) & (columns_T < lengths_B[:, None])
        return Rollouts(
            prompts=(prompt,),
            k=len(rows),
            tokens_BT=tokens_BT,
            sampled_BT=sampled_BT,
            logprobs_BT=torch.where(sampled_BT, -math.log(len(self._tokenizer)), 0.0),
            lengths_B=lengths_B,
            finished_B=torch.tensor(finished),
            versions_B=torch.full((len(rows),), self._version),
            texts=tuple(str(self._tokenizer.decode(completion)) for completion in completions),
        )


def _is_word(text: str) -> bool:
    return text.strip().isascii() and text.strip().isalnum()
