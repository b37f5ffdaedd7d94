import pytest
import torch

from dqo.models.heads import ValueHead, head_width, plain_head, with_value_head
from tests.factories import tiny_llama

CPU = torch.device("cpu")


@pytest.mark.parametrize("tied", [True, False])
def test_a_value_head_takes_the_place_of_the_lm_head_and_leaves_the_embeddings(tied):
    model, tokens = tiny_llama(tied=tied), torch.tensor([[5, 6, 7]])
    hidden = model.model(input_ids=tokens).last_hidden_state
    embeddings = model.get_input_embeddings().weight
    head = ValueHead(head_width(model), seed=3)
    assert with_value_head(model, head)
    values = model(input_ids=tokens).logits
    assert values.shape == (1, 3, 1)
    torch.testing.assert_close(values, hidden @ head.weight.T)
    assert model.get_input_embeddings().weight is embeddings and not model.config.tie_word_embeddings


def test_a_value_heads_weights_come_from_its_seed_alone_and_are_small():
    state = torch.get_rng_state()
    one, same, other = (ValueHead(1000, seed=seed).weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.std().item() == pytest.approx(1 / 1001, rel=0.1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_float32_under_autocast_and_with_weights_of_another_dtype(dtype):
    head, hidden = ValueHead(64, seed=0).to(dtype), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        values = head(hidden)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, hidden @ head.weight.float().T, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cap", [0.5, 30.0])  # Gemma's cap is 30, far above the logits of an untrained model
def test_a_model_that_caps_its_logits_gets_no_value_head(cap):
    model = tiny_llama()
    forward, lm_head = model.forward, model.lm_head

    def capped(**inputs):
        out = forward(**inputs)
        out.logits = cap * torch.tanh(out.logits / cap)
        return out

    model.forward = capped
    assert plain_head(model, CPU) is None
    assert not with_value_head(model, ValueHead(64, seed=0)) and model.lm_head is lm_head
