"""Log-probabilities and entropies of a micro-batch's sampled tokens. No engine in here: ``model`` is anything that is
called like a transformers causal language model."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.learner.packing import MicroBatch, micro_batches
from dqo.records import Prompt, Rollouts

CHUNK = 256  # rows of logits whose entropy is computed at once
ALIKE = 1e-2  # nats; the two forms differ by 1e-5 in fp32


def token_logprobs(
    model: Callable[..., Any], batch: MicroBatch, *, temperature: float, device: torch.device
) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Log-probability of each sampled token and entropy of the distribution it was drawn from, both in nats at
    ``temperature``, float32. The entropy carries no gradient. The head runs only where a sampled token is predicted."""
    columns_U, column_N = batch.sources_N.unique(return_inverse=True)
    positions = {"position_ids": batch.positions_RL.to(device)} if batch.mask.ndim == 4 else {}
    logits_RUV = model(
        input_ids=batch.tokens_RL.to(device),
        attention_mask=batch.mask.to(device),
        logits_to_keep=columns_U.to(device),
        use_cache=False,
        **positions,
    ).logits
    # a prompt's last token predicts several first tokens, and not every row needs every column
    used_M, place_N = (batch.sequences_N * len(columns_U) + column_N).unique(return_inverse=True)
    logits_MV = logits_RUV.flatten(0, 1)
    if len(used_M) < len(logits_MV):
        logits_MV = logits_MV[used_M.to(device)]
    logits_MV = logits_MV.float() if temperature == 1.0 else logits_MV.float() / temperature
    normalisers_M = logits_MV.logsumexp(-1)
    place_N, targets_N = place_N.to(device), batch.targets_N.to(device)
    logprobs_N = logits_MV[place_N, targets_N] - normalisers_M[place_N]
    return logprobs_N, _entropies(logits_MV.detach(), normalisers_M.detach())[place_N]


def check_shared_prompt(model: PreTrainedModel, device: torch.device) -> None:
    """Raises ConfigError for a model that would compute something else under the shared form's mask."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if getattr(config, "sliding_window", None) is not None:
        kinds.add("sliding_attention")
    if model.config._attn_implementation not in ("sdpa", "eager"):
        kinds.add(f"attention by {model.config._attn_implementation}")
    if kinds:
        raise _no_shared_prompt(model, f"has {', '.join(sorted(kinds))}, which ignores the mask of shared prompts")
    with torch.no_grad():
        shared_N, plain_N = (
            token_logprobs(model, probe(shared), temperature=1.0, device=device)[0] for shared in (True, False)
        )
    difference = float((shared_N - plain_N).abs().max())
    if not difference <= ALIKE:
        raise _no_shared_prompt(model, f"is {difference:.2g} nats off with shared prompts")


def _no_shared_prompt(model: PreTrainedModel, reason: str) -> ConfigError:
    return ConfigError(f"learner.shared_prompt=true: {type(model).__name__} {reason}; type learner.shared_prompt=false")


def probe(shared: bool) -> MicroBatch:
    """One prompt of three tokens, two completions of two: what a model can be tried with."""
    rollouts = Rollouts(
        prompts=(Prompt(position=0, tokens=(3, 4, 5), content="", columns={}),),
        k=2,
        tokens_BT=torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 8, 9]]),
        sampled_BT=torch.tensor([[False, False, False, True, True]] * 2),
        logprobs_BT=torch.zeros(2, 5),
        lengths_B=torch.tensor([5, 5]),
        finished_B=torch.tensor([True, True]),
        versions_B=torch.tensor([0, 0]),
        texts=("", ""),
    )
    (batch,) = micro_batches(rollouts, [0, 1], budget=10, shared=shared)
    return batch


def _entropies(
    logits_MV: Float[Tensor, "rows vocabulary"], normalisers_M: Float[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """log Z minus the mean logit, in chunks: the probabilities of all rows at once would double the logits' memory."""
    chunks = zip(logits_MV.split(CHUNK), normalisers_M.split(CHUNK), strict=True)
    return torch.cat([z - ((rows - z[:, None]).exp() * rows).sum(-1) for rows, z in chunks])
