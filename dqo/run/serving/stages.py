"""The reward and the encoder of a service, called with what several clients have sent."""

import base64
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from dqo.batching import join
from dqo.capabilities import EncodesTexts
from dqo.errors import StageError
from dqo.records import Rollouts
from dqo.run.serving.forms import EmbeddingItem
from dqo.stages import Embed, Reward
from dqo.wire import Completion, Group, GroupRewards, decode_rollouts, encode_rewards


class Scorer:
    """A reward, and the tokenizer for texts that come without tokens."""

    def __init__(self, reward: Reward, tokenizer: PreTrainedTokenizerBase):
        self.reward, self.tokenizer = reward, tokenizer

    def rollouts(self, group: Group) -> Rollouts:
        """The record of a group. Raises ValueError for one that contradicts itself."""
        return decode_rollouts(group, self._tokens)

    def __call__(self, groups: Sequence[Rollouts]) -> list[GroupRewards]:
        """The rewards of each group; groups of one size are scored together. Raises StageError where the reward does,
        and for a reward that is not finite."""
        found: dict[int, GroupRewards] = {}
        for k in dict.fromkeys(group.k for group in groups):
            numbers = [number for number, group in enumerate(groups) if group.k == k]
            rewards = self.reward.score(join([groups[number] for number in numbers]))
            try:
                found |= zip(numbers, encode_rewards(rewards), strict=True)
            except ValueError as error:
                raise StageError("reward", str(error)) from error
        return [found[number] for number in range(len(groups))]

    def _tokens(self, completion: Completion) -> list[int]:
        ids: Any = self.tokenizer.encode(completion.text, add_special_tokens=False)
        end: Any = self.tokenizer.eos_token_id
        return [*ids, end] if completion.finished and end is not None else ids


class Encoder:
    """An encoder, and the name that clients call it by."""

    def __init__(self, embed: Embed, name: str):
        self.embed, self.name = embed, name

    def __call__(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """The embedding of each text. Raises StageError for one that is not finite."""
        embeddings_ND = self._encoded(texts).float()
        finite_N = embeddings_ND.isfinite().all(1)
        if not finite_N.all():
            text = texts[int((~finite_N).nonzero()[0])]
            raise StageError("embed", f"no finite embedding for {text!r:.80}")
        return [*embeddings_ND]

    def _encoded(self, texts: Sequence[str]) -> torch.Tensor:
        if isinstance(self.embed, EncodesTexts):
            return self.embed.encode_texts(texts)
        group = Group(prompt="", completions=[Completion(text=text) for text in texts])
        return self.embed.encode(decode_rollouts(group, lambda completion: []))[0]


def embedding_item(index: int, embedding_D: torch.Tensor, *, as_base64: bool) -> EmbeddingItem:
    """OpenAI's form of an embedding."""
    if not as_base64:
        return EmbeddingItem.model_construct(index=index, embedding=embedding_D.tolist())
    data = embedding_D.numpy().astype("<f4").tobytes()
    return EmbeddingItem.model_construct(index=index, embedding=base64.b64encode(data).decode())
