"""Completions in bytes, as the tokenizers of models have them that take all texts."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dqo.records import Rollouts
from dqo.rollout.sampling.record import record
from tests.factories import make_prompts

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = ["<pad>", "<eos>", *BYTES, ".Ċ", "ab", "Ċc"]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, as models that take all texts have them, and three tokens of several bytes."""
    vocabulary = {token: n for n, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(".", "Ċ"), ("a", "b"), ("Ċ", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


TOKENIZER = byte_tokenizer()


def sampled(texts: list[str], k: int, *, finished: bool = True) -> Rollouts:
    tokens = [[*TOKENIZER.encode(text, add_special_tokens=False), *[1] * finished] for text in texts]
    logprobs = [[-1.0] * len(row) for row in tokens]
    return record(
        make_prompts(len(texts) // k), tokens, logprobs, [finished] * len(texts), tokenizer=TOKENIZER, version=0
    )
