"""Tiny random models of many architectures, with weights that are large enough for their parts to matter."""

from collections.abc import Callable

import torch
import transformers as hf
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

VOCABULARY = 63  # of tests.factories.word_tokenizer
SPREAD = {"initializer_range": 0.3}
SIZES = SPREAD | {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip
LLAMA = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
DEEP = LLAMA | {"num_hidden_layers": 4}
OLD = SPREAD | {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
MAMBA = SPREAD | {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bamba": lambda: hf.BambaConfig(**LLAMA, **HEADS, attn_layer_indices=[1]),
    "bloom": lambda: hf.BloomConfig(**SPREAD, vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
    "codegen": lambda: hf.CodeGenConfig(**OLD, rotary_dim=4),
    "cohere2": lambda: hf.Cohere2Config(**DEEP, sliding_window=6, logit_scale=0.5),
    "deepseek_v3": lambda: hf.DeepseekV3Config(
        **(LLAMA | {"num_key_value_heads": 4, "num_experts_per_tok": 2}), q_lora_rank=16, kv_lora_rank=16,
        qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=1, topk_group=1,
        moe_intermediate_size=32, first_k_dense_replace=1,
    ),
    "falcon": lambda: hf.FalconConfig(**SIZES),
    "falcon with alibi": lambda: hf.FalconConfig(**SIZES, alibi=True),
    "falcon_h1": lambda: hf.FalconH1Config(**LLAMA, **HEADS, mamba_d_ssm=64),
    "falcon_mamba": lambda: hf.FalconMambaConfig(**MAMBA),
    "gemma2": lambda: hf.Gemma2Config(**LLAMA, head_dim=8, sliding_window=6, attn_logit_softcapping=5.0),
    "gemma3": lambda: hf.Gemma3TextConfig(**(LLAMA | {"num_hidden_layers": 6}), head_dim=8, sliding_window=6),
    "glm4": lambda: hf.Glm4Config(**LLAMA, head_dim=8),
    "gpt2": lambda: hf.GPT2Config(**OLD),
    "gpt_neo": lambda: hf.GPTNeoConfig(
        **SPREAD, vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, max_position_embeddings=128,
        attention_types=[[["global", "local"], 1]], window_size=6,
    ),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES, intermediate_size=48),
    "gpt_oss": lambda: hf.GptOssConfig(**LLAMA, **EXPERTS, head_dim=8, sliding_window=6),
    "gptj": lambda: hf.GPTJConfig(**OLD, rotary_dim=4),
    "granite": lambda: hf.GraniteConfig(
        **LLAMA, logits_scaling=4.0, embedding_multiplier=2.0, residual_multiplier=0.5, attention_multiplier=0.5
    ),
    "granite with mamba": lambda: hf.GraniteMoeHybridConfig(
        **LLAMA, **EXPERTS, **HEADS, layer_types=["mamba", "attention"], shared_intermediate_size=32
    ),
    "jamba": lambda: hf.JambaConfig(
        **DEEP, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, use_mamba_kernels=False
    ),
    "lfm2": lambda: hf.Lfm2Config(**LLAMA, layer_types=["conv", "full_attention"], block_multiple_of=8),
    "llama": lambda: hf.LlamaConfig(**LLAMA),
    "llama4": lambda: hf.Llama4TextConfig(
        **DEEP, head_dim=8, attention_chunk_size=6, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1
    ),
    "mamba": lambda: hf.MambaConfig(**MAMBA),
    "mamba2": lambda: hf.Mamba2Config(**MAMBA, num_heads=8, head_dim=8, n_groups=2, chunk_size=8),
    "minimax": lambda: hf.MiniMaxConfig(
        **LLAMA, **EXPERTS, layer_types=["linear_attention", "full_attention"], block_size=8
    ),
    "mistral": lambda: hf.MistralConfig(**LLAMA, sliding_window=6),
    "mixtral": lambda: hf.MixtralConfig(**LLAMA, **EXPERTS),
    "mpt": lambda: hf.MptConfig(**SPREAD, vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=128),
    "nemotron": lambda: hf.NemotronConfig(**LLAMA),
    "olmo3": lambda: hf.Olmo3Config(**DEEP, sliding_window=6),
    "openai-gpt": lambda: hf.OpenAIGPTConfig(**OLD),
    "opt": lambda: hf.OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3),
    "phi3": lambda: hf.Phi3Config(**LLAMA, sliding_window=6),
    "qwen2": lambda: hf.Qwen2Config(**LLAMA),
    "qwen2_moe": lambda: hf.Qwen2MoeConfig(**LLAMA, **QWEN_EXPERTS, shared_expert_intermediate_size=32),
    "qwen3": lambda: hf.Qwen3Config(**LLAMA, head_dim=16),
    "qwen3_5": lambda: hf.Qwen3_5TextConfig(**DEEP, **LINEAR, head_dim=8),
    "qwen3_next": lambda: hf.Qwen3NextConfig(
        **DEEP, **LINEAR, **QWEN_EXPERTS, head_dim=8, shared_expert_intermediate_size=32
    ),
    "recurrent_gemma": lambda: hf.RecurrentGemmaConfig(
        **(LLAMA | {"num_hidden_layers": 3}), lru_width=32, attention_window_size=6, head_dim=8
    ),
    "rwkv": lambda: hf.RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=48
    ),
    "stablelm": lambda: hf.StableLmConfig(**LLAMA),
    "starcoder2": lambda: hf.Starcoder2Config(**LLAMA, sliding_window=6),
    "vaultgemma": lambda: hf.VaultGemmaConfig(**LLAMA, head_dim=8, sliding_window=6, attn_logit_softcapping=5.0),
    "xlstm": lambda: hf.xLSTMConfig(
        vocab_size=VOCABULARY, hidden_size=32, embedding_dim=32, num_hidden_layers=2, num_blocks=2, num_heads=4,
        chunk_size=8,
    ),
    "zamba2": lambda: hf.Zamba2Config(
        **DEEP, mamba_d_state=8, mamba_ngroups=1, n_mamba_heads=8, chunk_size=8, num_mem_blocks=1, adapter_rank=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], use_mem_rope=True,
    ),
}  # fmt: skip


def tiny_model(name: str, *, attention: str | None = None) -> PreTrainedModel:
    """A random float32 model in eval mode; the same weights at each call. ``attention``: None for transformers' own
    choice."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases, which start as ones and zeros
                parameter += 0.1 * torch.randn(parameter.shape)
    return model
