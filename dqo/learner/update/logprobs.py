"""Log-probabilities and entropies of a micro-batch's sampled tokens, for any model that is called like a transformers
causal language model: plain, wrapped by peft, or a DeepSpeed engine."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dqo.learner.update.packing import Form, MicroBatch
from dqo.models.attention import segment_mask

ENTROPY_CHUNK = 256  # rows of logits whose entropy is computed at once
# At most this many bytes of fp32 logits exist at once; larger batches run the head in chunks and recompute them in the
# backward pass.
MAX_LOGIT_BYTES = 2**29
ROW_ALIGNMENT = 128  # rows that a matrix product on a GPU computes at a time


def token_logprobs(
    model: Callable[..., Any],
    batch: MicroBatch,
    *,
    temperature: float,
    device: torch.device,
    head: torch.nn.Module | None = None,
    max_logit_rows: int | None = None,
    entropy_gradient: bool = False,
) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Log-probability of each sampled token, and entropy of the distribution it was sampled from.

    Both are in nats at ``temperature``, float32; the entropy carries a gradient only with ``entropy_gradient``. The LM
    head runs only at positions that predict a sampled token. Where ``head`` is given, a plain one (``models.heads``),
    it runs on at most ``max_logit_rows`` positions at a time; None: that many rows that their logits take
    ``MAX_LOGIT_BYTES``.
    """
    columns_U, used_M, row_N = predicting_positions(batch)
    max_rows = max_logit_rows or logit_rows(head)
    in_chunks = head is not None and len(used_M) > max_rows
    with _captured_input(head) if head is not None and in_chunks else contextlib.nullcontext([]) as hidden:
        output_RU = outputs_at(model, batch, columns_U, device)
    if in_chunks:
        (output_RU,) = hidden
    output_M = used_rows(output_RU, columns_U, used_M)  # hidden states if in_chunks, else logits
    counts = torch.bincount(row_N // max_rows).tolist()
    row_N, targets_N = row_N.to(device), batch.targets_N.to(device)
    if head is None or not in_chunks:
        return _logprobs_and_entropies(output_M, row_N, targets_N, temperature, entropy_gradient)

    def of_chunk(hidden_C: Tensor, row_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        return _logprobs_and_entropies(head(hidden_C), row_n, targets_n, temperature, entropy_gradient)

    order_N = row_N.argsort(stable=True)
    chunks = [
        checkpoint(of_chunk, hidden_C, row_N[n] - start, targets_N[n], use_reentrant=False)
        for start, hidden_C, n in zip(
            range(0, len(output_M), max_rows), output_M.split(max_rows), order_N.split(counts), strict=True
        )
    ]
    logprobs_N, entropies_N = (torch.cat(values)[order_N.argsort()] for values in zip(*chunks, strict=True))
    return logprobs_N, entropies_N


def predicting_positions(batch: MicroBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(columns at which any sampled token is predicted, indices into sequences × these columns of the positions that
    are used, for each sampled token the index of its position among the used ones). A prompt's last token predicts
    several first tokens, and not every sequence needs every column."""
    columns_U, column_N = batch.sources_N.unique(return_inverse=True)
    used_M, row_N = (batch.sequences_N * len(columns_U) + column_N).unique(return_inverse=True)
    return columns_U, used_M, row_N


def outputs_at(model: Callable[..., Any], batch: MicroBatch, columns_U: Tensor, device: torch.device) -> Tensor:
    """The outputs of the model's head at these columns, (sequences, columns or more, outputs)."""
    return model(
        input_ids=batch.tokens_RL.to(device),
        logits_to_keep=columns_U.to(device),
        use_cache=False,
        **_attention_inputs(batch, device),
    ).logits


def used_rows(output_RU: Tensor, columns_U: Tensor, used_M: Tensor) -> Tensor:
    """The outputs at the used positions, (positions, outputs)."""
    if output_RU.shape[1] > len(columns_U):  # a model that takes logits_to_keep and ignores it (xLSTM)
        output_RU = output_RU[:, columns_U.to(output_RU.device)]
    output_M = output_RU.flatten(0, 1)
    return output_M if len(used_M) == len(output_M) else output_M[used_M.to(output_RU.device)]


def logit_rows(head: torch.nn.Module | None) -> int:
    """How many rows of logits take ``MAX_LOGIT_BYTES``, in whole multiples of ``ROW_ALIGNMENT``; at least one such."""
    if not isinstance(head, torch.nn.Linear):
        return ROW_ALIGNMENT
    return max(MAX_LOGIT_BYTES // (4 * head.out_features * ROW_ALIGNMENT), 1) * ROW_ALIGNMENT


def _attention_inputs(batch: MicroBatch, device: torch.device) -> dict[str, Any]:
    if batch.form is Form.PLAIN:
        return {"attention_mask": None}
    mask = batch.mask.to(device)
    if not batch.form.shares_prompts:
        return {"attention_mask": mask}
    positions_RL = batch.positions_RL.to(device)
    if batch.shared_prompt is None:
        return {"attention_mask": segment_mask(mask), "position_ids": positions_RL}
    return {"attention_mask": mask, "position_ids": positions_RL, "shared_prompt": batch.shared_prompt.to(device)}


def _logprobs_and_entropies(
    logits_MV: Float[Tensor, "rows vocabulary"],
    row_N: Tensor,
    targets_N: Tensor,
    temperature: float,
    entropy_gradient: bool,
) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Row ``row_N[n]`` of the logits predicts token ``targets_N[n]``."""
    logits_MV = logits_MV.float() if temperature == 1.0 else logits_MV.float() / temperature
    normalizers_M = logits_MV.logsumexp(-1)
    logprobs_N = logits_MV[row_N, targets_N] - normalizers_M[row_N]
    if not entropy_gradient:
        return logprobs_N, _entropies(logits_MV.detach(), normalizers_M.detach())[row_N]
    return logprobs_N, _entropies(logits_MV, normalizers_M)[row_N]


@contextlib.contextmanager
def _captured_input(head: torch.nn.Module) -> Iterator[list[Tensor]]:
    """The hidden states that reach the LM head within the block. The head itself gets none of them and computes no
    logits. A hook works on a wrapped model too; calling its decoder would leave out the DeepSpeed engine's forward."""
    hidden: list[Tensor] = []

    def capture(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden.append(inputs[0])
        return (inputs[0][:, :0],)

    handle = head.register_forward_pre_hook(capture)
    try:
        yield hidden
    finally:
        handle.remove()


def _entropies(
    logits_MV: Float[Tensor, "rows vocabulary"], normalizers_M: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """log Z minus the mean logit, in chunks: the probabilities of all rows at once would double the logits' memory. For
    a gradient each chunk's probabilities are computed again in the backward pass."""

    def of_chunk(rows: Tensor, z: Tensor) -> Tensor:
        return z - ((rows - z[:, None]).exp() * rows).sum(-1)

    chunks = zip(logits_MV.split(ENTROPY_CHUNK), normalizers_M.split(ENTROPY_CHUNK), strict=True)
    if not logits_MV.requires_grad:
        return torch.cat([of_chunk(rows, z) for rows, z in chunks])
    return torch.cat([checkpoint(of_chunk, rows, z, use_reentrant=False) for rows, z in chunks])
