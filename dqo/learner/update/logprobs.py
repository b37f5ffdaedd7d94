"""Log-probabilities and entropies of a micro-batch's sampled tokens. No engine in here: ``model`` is anything that is
called like a transformers causal language model."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.learner.update.packing import MicroBatch, micro_batches
from dqo.models.attention import use_dqo_attention
from dqo.records import Prompt, Rollouts

CHUNK = 256  # rows of logits whose entropy is computed at once
HELD = 1024  # rows of logits that are held; of more, so many at a time are computed, and once more for the gradient
ALIKE = 1e-2  # nats; the two forms differ by 1e-5 in fp32
SPREAD = 1e3  # times the last states: so far that a cap on logits shows

log = logging.getLogger(__name__)


def token_logprobs(
    model: Callable[..., Any],
    batch: MicroBatch,
    *,
    temperature: float,
    device: torch.device,
    head: torch.nn.Module | None = None,
    held: int = HELD,
) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Log-probability of each sampled token and entropy of the distribution it was drawn from, both in nats at
    ``temperature``, float32. The entropy carries no gradient. The head runs only where a sampled token is predicted,
    and on ``held`` such places at a time where it is given (see ``plain_head``)."""
    columns_U, column_N = batch.sources_N.unique(return_inverse=True)
    # a prompt's last token predicts several first tokens, and not every row needs every column
    used_M, place_N = (batch.sequences_N * len(columns_U) + column_N).unique(return_inverse=True)
    in_parts = head is not None and len(used_M) > held
    with _in_place_of(head, lambda states: states) if head is not None and in_parts else contextlib.nullcontext():
        states_RU = model(  # logits; where the head does nothing, the states that it is applied to
            input_ids=batch.tokens_RL.to(device),
            attention_mask=batch.mask.to(device),
            logits_to_keep=columns_U.to(device),
            use_cache=False,
            **_of_shared_prompt(batch, device),
        ).logits
    states_M = states_RU.flatten(0, 1)
    if len(used_M) < len(states_M):
        states_M = states_M[used_M.to(device)]
    place_N, targets_N = place_N.to(device), batch.targets_N.to(device)
    if head is None or not in_parts:
        return _of_logits(states_M, place_N, targets_N, temperature=temperature)

    def of_part(states_C: Tensor, place_n: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        return _of_logits(head(states_C), place_n, targets_n, temperature=temperature)

    order_N = place_N.argsort(stable=True)
    ends = torch.bincount(place_N.cpu() // held).tolist()
    parts = [
        checkpoint(of_part, states_C, place_N[n] - start, targets_N[n], use_reentrant=False)
        for start, states_C, n in zip(
            range(0, len(states_M), held), states_M.split(held), order_N.split(ends), strict=True
        )
    ]
    logprobs_N, entropies_N = (torch.cat(values)[order_N.argsort()] for values in zip(*parts, strict=True))
    return logprobs_N, entropies_N


def _of_shared_prompt(batch: MicroBatch, device: torch.device) -> dict[str, Any]:
    if batch.shared_prompt is None:
        return {}
    return {"position_ids": batch.positions_RL.to(device), "shared_prompt": batch.shared_prompt.to(device)}


def _of_logits(
    logits_MV: Float[Tensor, "rows vocabulary"], place_N: Tensor, targets_N: Tensor, *, temperature: float
) -> tuple[Float[Tensor, " sampled"], Float[Tensor, " sampled"]]:
    """Of the tokens ``targets_N``, each predicted in row ``place_N``."""
    logits_MV = logits_MV.float() if temperature == 1.0 else logits_MV.float() / temperature
    normalisers_M = logits_MV.logsumexp(-1)
    logprobs_N = logits_MV[place_N, targets_N] - normalisers_M[place_N]
    return logprobs_N, _entropies(logits_MV.detach(), normalisers_M.detach())[place_N]


@contextlib.contextmanager
def _in_place_of(head: torch.nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own again


def plain_head(model: PreTrainedModel, device: torch.device) -> torch.nn.Module | None:
    """The model's head where its logits are what that makes of the last states and nothing more (some cap or scale
    them): then it can be applied in parts."""
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Linear):
        marked: list[Tensor] = []

        def mark(states: Tensor) -> Tensor:
            marked.append(SPREAD * states)
            return marked[-1]

        with torch.no_grad(), _in_place_of(head, mark):
            logits = model(input_ids=probe(False).tokens_RL.to(device), use_cache=False).logits
        if len(marked) == 1 and torch.equal(logits.float(), marked[0].float()):
            return head
    log.info(
        "%s: logits are more than last states times a matrix; a micro-batch's are held whole", type(model).__name__
    )
    return None


def use_shared_prompt(model: PreTrainedModel, device: torch.device) -> None:
    """Switch the model to attention that knows the shared form. Raises ConfigError where it would then compute
    something else than in the plain form."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - {"full_attention"}
    if getattr(config, "sliding_window", None) is not None:
        kinds.add("sliding_attention")
    if kinds:
        raise _no_shared_prompt(model, f"has {', '.join(sorted(kinds))}, which shared prompts would switch off")
    if not use_dqo_attention(model):
        implementation = model.config._attn_implementation
        raise _no_shared_prompt(model, f"has attention by {implementation}", " or model.attn_implementation=sdpa")
    with torch.no_grad():
        plain_N = token_logprobs(model, probe(False), temperature=1.0, device=device)[0]
        try:
            shared_N = token_logprobs(model, probe(True), temperature=1.0, device=device)[0]
        except (TypeError, RuntimeError) as error:
            raise _no_shared_prompt(model, f"cannot take shared prompts ({error})") from error
    difference = float((shared_N - plain_N).abs().max())
    if not difference <= ALIKE:
        raise _no_shared_prompt(model, f"is {difference:.2g} nats off with shared prompts")


def _no_shared_prompt(model: PreTrainedModel, reason: str, alternative: str = "") -> ConfigError:
    advice = f"type learner.shared_prompt=false{alternative}"
    return ConfigError(f"learner.shared_prompt=true: {type(model).__name__} {reason}; {advice}")


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
