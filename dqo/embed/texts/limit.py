"""How many tokens an encoder reads."""

import logging

from sentence_transformers import SentenceTransformer

from dqo.errors import ConfigError
from dqo.models.sizes import positions_of

log = logging.getLogger(__name__)


def limit_length(encoder: SentenceTransformer, wanted: int | None) -> None:
    """Set how many tokens of a text the encoder reads; None keeps the encoder's own, as far as it has positions.
    Raises ConfigError for a length that the encoder cannot use."""
    model, own = encoder.transformers_model, encoder.max_seq_length
    positions = positions_of(model) if model is not None else None  # None: static embeddings
    if wanted is None:
        if positions is not None and (own is None or own > positions):
            log.info("embed.model: a text is read up to %d tokens, the encoder's positions", positions)
            encoder.max_seq_length = positions
        return
    if positions is not None and wanted > positions:
        raise ConfigError(
            f"embed.max_seq_length={wanted}: the encoder was made for {positions} tokens at most; type "
            f"embed.max_seq_length={positions}, or null for its own limit ({min(own or positions, positions)})"
        )
    count = getattr(encoder.tokenizer, "num_special_tokens_to_add", int)()
    if wanted <= count:
        raise ConfigError(
            f"embed.max_seq_length={wanted}: the encoder adds {count} tokens to each text, which leaves none for the "
            "text; type embed.max_seq_length=null"
        )
    encoder.max_seq_length = wanted
