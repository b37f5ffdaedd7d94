"""Tokens of a tokenizer for which its model has no row: Gemma's tokenizer has one for images."""

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError


def tokens_without_row(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, int]:
    """The tokens, with their numbers, that are ``rows`` or more. Example: ``{"<image_soft_token>": 262144}``."""
    return {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}


def check_occurrence(tokenizer: PreTrainedTokenizerBase, tokens: dict[str, int], rows: int) -> None:
    """Raises ConfigError where any text may have one of ``tokens`` (``tokens_without_row``): where they are words of
    the vocabulary, or the tokenizer itself writes them. What is left occurs only in texts that name it."""
    added = tokenizer.added_tokens_decoder
    if any(number not in added for number in tokens.values()):
        raise ConfigError(
            f"its tokenizer has {len(tokenizer)} tokens, its config {rows}: they belong to different models"
        )
    written = tokenizer.convert_ids_to_tokens(tokenizer("a")["input_ids"])
    for token in (tokenizer.eos_token, tokenizer.unk_token, *written):
        if token in tokens:
            raise ConfigError(
                f"its token {token} has the number {tokens[token]}, and the model has rows for numbers below {rows}; "
                "save it after model.resize_token_embeddings(len(tokenizer))"
            )
