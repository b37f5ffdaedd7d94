"""``rollout=fake``: no model. Random words of the tokenizer, so that a whole pipeline runs in a second."""

import math
import random
from collections.abc import Iterator, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt, Rollouts
from dqo.stages import Weights


class Fake:
    """Completions of 1 to ``max_completion_length`` tokens, end token included; a share ``cut`` of them is cut by
    length. Log-probabilities are a uniform policy's. Each group is a record."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_completion_length: int, cut: float):
        if max_completion_length < 1:
            raise ConfigError(f"max_completion_length={max_completion_length}: at least 1 token is needed")
        if not 0 <= cut <= 1:
            raise ConfigError(f"rollout.cut={cut}: a share from 0 to 1 is needed; type rollout.cut=0.1")
        self._tokenizer, self._longest, self._cut, self._version = tokenizer, max_completion_length, cut, 0
        tokens = sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
        self._words = [token for token in tokens if _is_word(str(tokenizer.decode([token])))] or tokens

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        for prompt in prompts:
            yield self._group(prompt, [random.Random(f"{seed} {prompt.position} {i}") for i in range(k)])

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Consumes them: on several ranks producing them is a collective."""
        for _ in weights:
            pass
        self._version = version

    def pause(self) -> None:
        pass

    def _group(self, prompt: Prompt, choosers: Sequence[random.Random]) -> Rollouts:
        finished = [chooser.random() >= self._cut for chooser in choosers]
        completions = [
            chooser.choices(self._words, k=chooser.randrange(self._longest) if done else self._longest)
            for chooser, done in zip(choosers, finished, strict=True)
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
