"""A transformers attention implementation, for two cases in which the standard one is slow: several completions after
one shared prompt (learner; SDPA, or flex attention on a GPU), and one new token with grouped-query attention (rollout).
And whether SDPA computes what a model asks for."""

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from dqo.models.probing import MODEL_ERRORS

ATTENTION_NAME = "dqo_sdpa"
COMPARISON_NAME = "dqo_comparison"
# Layers whose attention differs from a full one by its mask, and layers that have none.
MASKED_KINDS = {
    "full_attention", "sliding_attention", "chunked_attention", "linear_attention", "conv", "hybrid", "hybrid_sliding",
    "moe", "mlp",
}  # fmt: skip
# Bounds on a query's attention scores with which SDPA is compared. At one of them a cap or a sink shows, whatever the
# weights are: a cap does nothing to small scores, and with very large ones one key gets all the weight.
SCORE_BOUNDS = (10.0, 100.0, 1000.0)
SDPA_TOLERANCE = 1e-3  # of the largest value; rounding makes 1e-6, Gemma 2's cap 1e-2
MASK_ALIGNMENT = 16  # entries; GPU kernels first copy a mask whose row length is not a multiple of this
FLEX_BLOCK = 128  # tokens in a block of flex attention, which computes a block or leaves it out
PADDING = -1  # see segment_mask
# Compiled forms of one function. torch's 8 is too few: with and without gradients, for one sequence and for several.
RECOMPILE_LIMIT = 32


@dataclass(frozen=True, kw_only=True)
class SharedPrompt:
    """Index tensors that find prompts and completions in R sequences [prompt, c_1 … c_m] of L tokens.

    There are S completions of at most C tokens; prompts have at most P tokens. The model passes this object to its
    attention as the keyword ``shared_prompt``; the attention mask is then (S, 1, C, P + C).
    """

    longest_prompt: int  # P
    # into the R·L tokens: the tokens of each completion; the last one is repeated up to C
    queries_SC: Int[Tensor, "completions completion"]
    keys_SK: Int[Tensor, "completions keys"]  # into the R·L tokens: the completion's prompt, then the completion
    # into the attention's output: R·P tokens of prompts, then S·C tokens of completions
    results_RL: Int[Tensor, "sequences length"]
    # cache of bias()
    biases: dict[tuple[int, torch.dtype], Tensor] = field(init=False, repr=False, default_factory=dict)

    def to(self, device: torch.device) -> "SharedPrompt":
        """A copy with all index tensors on ``device``."""
        names = ("queries_SC", "keys_SK", "results_RL")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def bias(self, mask: Tensor, *, repeats: int, dtype: torch.dtype) -> Tensor:
        """The mask as a bias on attention scores (0 or -inf), (S, 1, repeats · C, P + C): the queries of ``repeats``
        heads that share a key head are one sequence. Cached, so that all layers keep the same tensor for the backward
        pass."""
        if (repeats, dtype) not in self.biases:
            *rows, keys = mask.shape
            aligned = -(-keys // MASK_ALIGNMENT) * MASK_ALIGNMENT
            bias = torch.full((*rows, aligned), -torch.inf, dtype=dtype, device=mask.device)
            bias[..., :keys].masked_fill_(mask, 0.0)
            self.biases[repeats, dtype] = bias.repeat(1, 1, repeats, 1)[..., :keys]
        return self.biases[repeats, dtype]


def segment_mask(segments_RL: Int[Tensor, "sequences length"]) -> BlockMask:
    """The attention mask of sequences [prompt, c_1 … c_m] for flex attention, to be given to a model that uses dqo's
    attention. A token's segment is 0 in a prompt, another number above 0 in each completion, and ``PADDING``. A token
    attends to the tokens before it in its prompt and its own segment, and to itself.

    Takes about 4 bytes per pair of tokens while it is made: 1 GB for a sequence of 16,384.
    """

    (rows, length), segments = segments_RL.shape, segments_RL
    return create_block_mask(
        lambda r, head, query, key: (key <= query) & (
            (segments[r, query] == segments[r, key]) | ((segments[r, query] > 0) & (segments[r, key] == 0))
        ),
        rows, None, length, length, device=segments.device, BLOCK_SIZE=FLEX_BLOCK,
    )  # fmt: skip


def layer_kinds(model: PreTrainedModel) -> set[str]:
    """transformers' names for what the model's layers are: ``full_attention``, ``sliding_attention``,
    ``linear_attention`` …"""
    config = model.config.get_text_config(decoder=True)
    return {*get_layer_types_and_kwargs(config)[0], *(getattr(config, "layer_types", None) or [])}


def use_dqo_attention(model: PreTrainedModel) -> bool:
    """Whether the model now uses dqo's attention. Switches a model with ``sdpa`` attention; others are not changed,
    and neither are those that give SDPA alone the mask of their sparse attention (DeepSeek 3.2)."""
    masked = layer_kinds(model) <= MASKED_KINDS
    if model.config._attn_implementation == "sdpa" and model._can_set_attn_implementation() and masked:
        AttentionInterface.register(ATTENTION_NAME, _attention)
        AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
        model.set_attn_implementation(ATTENTION_NAME)
    return model.config._attn_implementation == ATTENTION_NAME


@contextlib.contextmanager
def with_dqo_attention(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model uses dqo's attention, if it can."""
    before = str(model.config._attn_implementation)
    use_dqo_attention(model)
    try:
        yield
    finally:
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)


@torch.no_grad()
def sdpa_is_exact(model: PreTrainedModel) -> bool:
    """Whether torch's SDPA computes what the attention function of the model's own module computes (the one of
    ``eager``), layer by layer. SDPA knows no cap on scores (Gemma 2) and no sinks, and ignores them silently.

    The functions are compared, not the model's logits: those would show a cap only with weights that reach it. A model
    that calls SDPA in its own way is taken at its word, and so is one that cannot be called here: the weights are still
    on the CPU, and some kernels take GPU tensors alone (flash-linear-attention). Learner and rollout try it again.
    """
    if model.config._attn_implementation != "sdpa" or not model._can_set_attn_implementation():
        return True
    exact: list[bool] = []

    def compare(module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **settings):
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        mask = attention_mask if attention_mask is None else attention_mask.float()
        inputs = (query.float(), key.float(), value.float(), mask)  # bfloat16 rounds by more than the tolerance
        exact.append(eager is None or _same_attention(eager, module, *inputs, **settings))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)

    AttentionInterface.register(COMPARISON_NAME, compare)
    AttentionMaskInterface.register(COMPARISON_NAME, eager_mask)
    model.set_attn_implementation(COMPARISON_NAME)
    try:
        with contextlib.suppress(*MODEL_ERRORS):
            model(input_ids=torch.arange(3, 10, device=model.device)[None], use_cache=False)
    finally:
        model.set_attn_implementation("sdpa")
    return all(exact)


def _same_attention(
    eager: Callable, module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **settings
) -> bool:
    scaling = settings.get("scaling") or 1 / math.sqrt(query.shape[-1])
    largest = float(query.norm(dim=-1).max() * key.norm(dim=-1).max()) * scaling
    for bound in SCORE_BOUNDS:
        scaled = query * (bound / max(largest, torch.finfo(query.dtype).tiny))
        expected, given = (f(module, scaled, key, value, mask, **settings)[0] for f in (eager, sdpa_attention_forward))
        if not (expected - given).abs().max() <= SDPA_TOLERANCE * value.abs().max():
            return False
    return True


@torch.compiler.disable  # torch.compile of a layer leaves attention alone: kernels are chosen here, not fused
def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    shared_prompt: SharedPrompt | None = None,
    **settings,
) -> tuple[Tensor, None]:
    if isinstance(attention_mask, BlockMask):
        return _flex_attention(query, key, value, attention_mask, scale=settings.get("scaling")), None
    if shared_prompt is not None:
        assert attention_mask is not None, "a shared prompt comes with a mask"
        return _shared_prompt_attention(module, query, key, value, attention_mask, shared_prompt, **settings), None
    one_mask = attention_mask is None or attention_mask.shape[1] == 1
    if query.shape[2] == 1 and query.shape[1] > key.shape[1] and one_mask and settings.get("position_bias") is None:
        # 6 times faster for SmolLM2 in bfloat16: 3.1 → 0.5 ms per layer with 32 rows of 60 tokens, 16.6 → 2.1 with 300
        return _grouped_attention(query, key, value, attention_mask, **settings).transpose(1, 2), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


def _grouped_attention(query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings) -> Tensor:
    """(batch, heads, queries, width). Query heads that share a key head are computed as one head with more queries, so
    keys and values are not repeated per query head. The mask covers one query, or is repeated like the queries."""
    batch, heads, length, width = query.shape
    shared = key.shape[1]
    output = scaled_dot_product_attention(
        query.reshape(batch, shared, heads // shared * length, width), key, value,
        attn_mask=attention_mask, scale=settings.get("scaling"), dropout_p=settings.get("dropout", 0.0),
    )  # fmt: skip
    return output.reshape(batch, heads, length, value.shape[-1])


def _flex_attention(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, *, scale: float | None) -> Tensor:
    """(sequences, length, heads, width)."""
    compute = _compiled_flex_attention() if query.device.type == "cuda" else flex_attention
    return compute(query, key, value, block_mask=mask, scale=scale, enable_gqa=True).transpose(1, 2).contiguous()


@functools.cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    """Made once per process: compiled for the first shape it meets, then for any shape."""
    allow_recompiling()
    return torch.compile(flex_attention)


def allow_recompiling() -> None:
    """Let torch make more compiled forms of a function than its default, after which it would run uncompiled."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)


def _shared_prompt_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, layout: SharedPrompt, **settings
) -> Tensor:
    """(sequences, length, heads, width). First the prompts, then all completions as one batch, each with the keys of
    its prompt: the cost grows with the length of one completion, not with the sum over the group."""
    prompts = slice(layout.longest_prompt)
    prompt_output, _ = sdpa_attention_forward(
        module, query[:, :, prompts], key[:, :, prompts], value[:, :, prompts], None,
        **{**settings, "is_causal": True},
    )  # fmt: skip
    bias = layout.bias(mask, repeats=query.shape[1] // key.shape[1], dtype=query.dtype)
    completion_output = _grouped_attention(
        _gathered(query, layout.queries_SC), _gathered(key, layout.keys_SK), _gathered(value, layout.keys_SK), bias,
        **settings,
    )  # fmt: skip
    results = torch.cat([prompt_output.flatten(0, 1), completion_output.transpose(1, 2).flatten(0, 1)])
    return results.index_select(0, layout.results_RL.flatten()).unflatten(0, layout.results_RL.shape)


def _gathered(states: Tensor, indices_SC: Tensor) -> Tensor:
    """(sequences, heads, length, width) → (completions, heads, tokens, width). Uses index_select, since the backward
    pass of states[indices] sorts the indices first."""
    tokens = states.transpose(1, 2).flatten(0, 1)
    return tokens.index_select(0, indices_SC.flatten()).unflatten(0, indices_SC.shape).transpose(1, 2)
