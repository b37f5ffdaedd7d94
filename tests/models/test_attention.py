import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM

from dqo.models.attention import (
    ATTENTION_NAME,
    FLEX_BLOCK,
    PADDING,
    _compiled_flex_attention,
    sdpa_is_exact,
    segment_mask,
    use_dqo_attention,
)
from tests.factories import tiny_llama


@pytest.mark.parametrize("padding", [0, 3])
def test_decoding_gives_the_same_logits_as_plain_attention(padding):
    """tiny_llama has four heads on two key heads."""
    tokens_BT = torch.randint(3, 63, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(tokens_BT)
    mask_BT[0, :padding] = 0
    plain, ours = tiny_llama(), tiny_llama()
    assert use_dqo_attention(ours)
    assert (plain.config._attn_implementation, ours.config._attn_implementation) == ("sdpa", ATTENTION_NAME)
    steps = []
    for model in (plain, ours):
        with torch.no_grad():
            output = model(tokens_BT[:, :6], attention_mask=mask_BT[:, :6], use_cache=True)
            logits = [output.logits]
            for t in range(6, 9):
                positions = mask_BT[:, : t + 1].sum(1, keepdim=True) - 1
                output = model(
                    tokens_BT[:, t : t + 1],
                    attention_mask=mask_BT[:, : t + 1],
                    position_ids=positions,
                    past_key_values=output.past_key_values,
                )
                logits.append(output.logits)
        steps.append(torch.cat(logits, 1)[mask_BT.bool()])
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=1e-5)


def test_a_model_with_other_attention_is_not_changed():
    model = tiny_llama()
    model.set_attn_implementation("eager")
    assert not use_dqo_attention(model)
    assert model.config._attn_implementation == "eager"


def test_a_model_that_gives_sdpa_alone_its_sparse_attention_is_not_changed():
    """DeepSeek 3.2 puts its choice of keys into the mask of ``sdpa`` and ``eager``, and ours would attend to all."""
    torch.manual_seed(0)
    config = DeepseekV32Config(
        vocab_size=63, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=32,
        first_k_dense_replace=1, index_n_heads=2, index_head_dim=8, index_topk=4, attn_implementation="sdpa",
    )  # fmt: skip
    model = DeepseekV32ForCausalLM(config).eval()
    assert not use_dqo_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_model_whose_kernels_take_gpu_tensors_alone_is_loaded():
    """flash-linear-attention raises for the weights on the CPU: sdpa is kept, and the learner tries the model on the
    GPU."""

    def refuse(module: torch.nn.Module, inputs: tuple) -> None:
        raise ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)")

    model = tiny_llama()
    model.get_submodule("model.layers.0").register_forward_pre_hook(refuse)
    assert sdpa_is_exact(model)
    assert model.config._attn_implementation == "sdpa"


def test_a_saved_policy_does_not_name_our_attention(tmp_path):
    """vLLM and transformers could not load it."""
    model = tiny_llama()
    assert use_dqo_attention(model)
    assert use_dqo_attention(model)  # a second call changes nothing
    model.save_pretrained(tmp_path)
    assert ATTENTION_NAME not in (tmp_path / "config.json").read_text()
    assert type(model).from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.slow
@torch.no_grad()
def test_compiled_flex_attention_equals_attention_with_a_mask_and_serves_further_shapes():
    """Six query heads on two key heads, as the 12 on 2 of Qwen2.5-1.5B: not a power of two."""
    torch.manual_seed(0)
    for stance, shapes in (("default", [(2, 1), (3, 2), (2, 3)]), ("fail_on_recompile", [(4, 2), (5, 4)])):
        for rows, blocks in shapes:
            length = blocks * FLEX_BLOCK
            segments_RL = torch.randint(0, 5, (rows, length), dtype=torch.long).sort(dim=1).values
            segments_RL[:, -40:] = PADDING
            mask = segment_mask(segments_RL)
            query, key, value = (torch.randn(rows, heads, length, 32) for heads in (6, 2, 2))
            with torch.compiler.set_stance(stance):
                given = _compiled_flex_attention()(query, key, value, block_mask=mask, scale=0.3, enable_gqa=True)
            dense = create_mask(mask.mask_mod, rows, None, length, length, device="cpu")
            expected = scaled_dot_product_attention(query, key, value, attn_mask=dense, scale=0.3, enable_gqa=True)
            torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)
