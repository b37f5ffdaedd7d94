import pytest
import torch
from transformers import AutoModel, BertConfig, MPNetConfig, RobertaConfig

from dqo.models.sizes import positions_of

SIZES = ("hidden_size", "intermediate_size")
TINY = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, **dict.fromkeys(SIZES, 32)}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (RobertaConfig(max_position_embeddings=40, **TINY), 38),  # positions 0 and 1 are not used
        (MPNetConfig(max_position_embeddings=40, **TINY), 38),
        (BertConfig(max_position_embeddings=40, **TINY), 40),
    ],
)
def test_positions_are_those_that_a_text_can_have(config, tokens):
    """The model itself says: it takes so many tokens, and one more is an error."""
    model = AutoModel.from_config(config).eval()
    assert positions_of(model) == tokens
    model(input_ids=torch.full((1, tokens), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, tokens + 1), 5))
