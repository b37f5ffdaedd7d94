"""``model=tiny``: a Llama of 0.8 M parameters that knows the words of one toy task and nothing else."""

import json
import math
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from dqo.errors import ConfigError
from dqo.ranges import Seed

WORDS = Path(__file__).parents[1] / "data" / "concepts.json"
LARGEST = 2_000_000_000  # hidden_size * intermediate_size * layers: a third of the feed-forward weights
SPECIALS = ("<pad>", "<eos>", "<unk>")  # tokens 0, 1, 2
COUNTDOWN = "dqo.task.countdown.Countdown"
ARITHMETIC = [*map(str, range(100)), "+", "-", "*", "/", "(", ")", "=", ":"]


class Tiny:
    """A source of a policy with random weights and a tied head, and of its tokenizer: one token per word.

    Fine-tune it first (``warm_start=true``): an untrained model earns no reward to learn from.
    """

    name = "tiny"

    def __init__(
        self,
        *,
        hidden_size: Annotated[int, Field(ge=1, examples=[128])],
        intermediate_size: Annotated[int, Field(ge=1, examples=[344])],
        layers: Annotated[int, Field(ge=1, examples=[4])],
        heads: Annotated[int, Field(ge=1, examples=[4])],
        context_length: Annotated[int, Field(ge=1, examples=[64])],
        seed: Seed,
        words_of: str,
    ):
        sizes = (hidden_size, intermediate_size, layers, heads, context_length)
        if hidden_size % (2 * heads):
            raise ConfigError(
                f"model.hidden_size={hidden_size}: must be a multiple of twice model.heads={heads}; type model.heads=4"
            )
        if math.prod(sizes[:3]) > LARGEST:
            raise ConfigError(
                f"model.hidden_size={hidden_size} model.intermediate_size={intermediate_size} model.layers={layers}: "
                "this model is meant to be tiny; type model.hidden_size=128 model.intermediate_size=344 model.layers=4"
            )
        self._sizes = sizes
        self._seed = seed
        words = ARITHMETIC if words_of == COUNTDOWN else json.loads(WORDS.read_text("utf-8"))["words"]
        self._vocabulary = [*SPECIALS, *words]

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """A tokenizer of the task's words, split at spaces; any other word is <unk>."""
        pad, eos, unk = SPECIALS
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(self._vocabulary)}, unk_token=unk))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=eos, unk_token=unk)

    def load_config(self) -> LlamaConfig:
        """The model's config."""
        hidden_size, intermediate_size, layers, heads, context_length = self._sizes
        return LlamaConfig(
            vocab_size=len(self._vocabulary),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=context_length,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )

    def load(self) -> PreTrainedModel:
        """The policy: float32 weights drawn from ``seed``, on the CPU, in eval mode. Keeps torch's generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            return LlamaForCausalLM(self.load_config()).eval()
