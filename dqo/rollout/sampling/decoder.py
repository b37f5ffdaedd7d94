"""The logits of the next token, row by row: three ways to call a model, and which of them a model can take."""

import abc
import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from dqo.errors import ConfigError
from dqo.models.attention import with_dqo_attention
from dqo.models.probing import MODEL_ERRORS, finite_range, largest_difference, model_fault, probe_precision

CACHES = ("past_key_values", "cache_params")  # names of a model's cache, in its inputs and its output
PROBE_PROMPTS = ((3, 4, 5), (6, 7, 8, 9, 3, 4, 5, 6))  # shorter and longer than a usual convolution (4)
PROBE_COMPLETIONS = ((7, 8, 9), (4, 4, 5), (9, 6, 3))

log = logging.getLogger(__name__)


class Decoder(abc.ABC):
    """Computes the logits of the next token of R rows. V tokens in the vocabulary."""

    mixes_lengths = False  # whether prompts of different lengths can be in one batch
    call = ""  # how it calls the model, for the log
    consequence = ""  # for the log, where it is not the first choice

    def __init__(self, model: PreTrainedModel):
        self._model = model

    @abc.abstractmethod
    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        """The logits after the prompts, one row each."""

    @abc.abstractmethod
    def select(self, indices_S: Int[Tensor, " selected"]) -> None:
        """From now on the rows are these ones; a row may be repeated."""

    @abc.abstractmethod
    def step(self, tokens_R: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """The logits after one more token."""

    def _tokens(self, rows: Sequence[Sequence[int]]) -> Int[Tensor, "rows tokens"]:
        return torch.tensor([[*row] for row in rows], device=self._model.device)


class Unpadded(Decoder):
    """Rows of one length: without mask and position numbers, which a recurrent state would ignore."""

    call = "its cache"
    consequence = "prompts of different lengths are sampled one length after the other"

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        return self._first(self._tokens(prompts))

    def select(self, indices_S: Int[Tensor, " selected"]) -> None:
        self._cache.reorder_cache(indices_S)

    def step(self, tokens_R: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        return self._next(tokens_R)

    def _first(self, tokens_RT: Tensor, **inputs: Any) -> Tensor:
        output = self._model(input_ids=tokens_RT, use_cache=True, logits_to_keep=1, **inputs)
        self._name = next(name for name in (*CACHES, "") if not name or output.get(name) is not None)
        if not self._name:
            raise ValueError(f"{type(self._model).__name__} returns no cache")
        self._cache: Any = output[self._name]  # made by the model: some have their own kind
        return output.logits[:, -1]

    def _next(self, tokens_R: Tensor, **inputs: Any) -> Tensor:
        inputs[self._name] = self._cache
        return self._model(input_ids=tokens_R[:, None], use_cache=True, logits_to_keep=1, **inputs).logits[:, -1]


class Padded(Unpadded):
    """Prompts of all lengths, with padding on their left."""

    mixes_lengths = True
    call = "left padding"

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        tokens_RT = self._tokens([[0] * (width - len(prompt)) + [*prompt] for prompt in prompts])
        self._lengths_R1 = torch.tensor(lengths, device=tokens_RT.device)[:, None]
        mask_RT = (torch.arange(width, device=tokens_RT.device) >= width - self._lengths_R1).long()
        self._mask_RT = mask_RT if min(lengths) < width else None
        positions_RT = (mask_RT.cumsum(1) - 1).clamp(min=0)
        return self._first(tokens_RT, attention_mask=self._mask_RT, position_ids=positions_RT)

    def select(self, indices_S: Int[Tensor, " selected"]) -> None:
        super().select(indices_S)
        self._lengths_R1 = self._lengths_R1[indices_S]
        self._mask_RT = None if self._mask_RT is None else self._mask_RT[indices_S]

    def step(self, tokens_R: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        positions_R1, self._lengths_R1 = self._lengths_R1, self._lengths_R1 + 1
        if self._mask_RT is not None:
            self._mask_RT = torch.nn.functional.pad(self._mask_RT, (0, 1), value=1)
        return self._next(tokens_R, attention_mask=self._mask_RT, position_ids=positions_R1)


class Uncached(Decoder):
    """Rows of one length, computed anew for each token: for a model whose cache cannot be used."""

    call = "no cache"
    consequence = "each token computes its whole sequence anew, and rollout=vllm may be much faster"

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Float[Tensor, "rows vocabulary"]:
        self._tokens_RT = self._tokens(prompts)
        return self._logits()

    def select(self, indices_S: Int[Tensor, " selected"]) -> None:
        self._tokens_RT = self._tokens_RT[indices_S]

    def step(self, tokens_R: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        self._tokens_RT = torch.cat([self._tokens_RT, tokens_R[:, None]], dim=1)
        return self._logits()

    def _logits(self) -> Tensor:
        return self._model(input_ids=self._tokens_RT, use_cache=False, logits_to_keep=1).logits[:, -1]


@torch.no_grad()
def decoder_of(model: PreTrainedModel) -> type[Decoder]:
    """The first decoder that gives the same log-probabilities as a forward pass without padding and without cache. Logs
    one line if that is not ``Padded``. Raises ConfigError if no decoder does.

    Example: left padding changes the state of a Mamba; RWKV takes no cache, and without one it would see one token.
    """
    name, reason = type(model).__name__, None
    with probe_precision(model) as share, with_dqo_attention(model):
        expected, tolerance = _expected_logprobs(model, share)
        for decoder in (Padded, Unpadded, Uncached):
            problem = _problem(decoder, model, expected, tolerance)
            if problem is None:
                if reason is not None:
                    log.info("rollout=hf: %s: %s; %s", name, reason, decoder.consequence)
                return decoder
            reason = problem
    raise _refusal(name, reason)


def _expected_logprobs(model: PreTrainedModel, share: float) -> tuple[list[Float[Tensor, "tokens vocabulary"]], float]:
    """Log-probabilities of each prompt with each completion, from forward passes over rows of one length, and ``share``
    of their range. Raises ConfigError for a model that cannot be called."""
    expected = []
    for prompt in PROBE_PROMPTS:
        tokens_RT = torch.tensor([[*prompt, *completion] for completion in PROBE_COMPLETIONS], device=model.device)
        try:
            logits_RTV = model(input_ids=tokens_RT, use_cache=False).logits.float()
        except MODEL_ERRORS as error:
            raise _refusal(type(model).__name__, model_fault(error)) from error
        expected.extend(logits_RTV.log_softmax(-1))
    return expected, share * max(map(finite_range, expected))


def _problem(kind: type[Decoder], model: PreTrainedModel, expected: list[Tensor], tolerance: float) -> str | None:
    """What is wrong with a decoder's log-probabilities; None: nothing."""
    batches = [range(len(PROBE_PROMPTS))] if kind.mixes_lengths else [[p] for p in range(len(PROBE_PROMPTS))]
    try:
        worst = max(_off_by(kind(model), batch, expected) for batch in batches)
    except MODEL_ERRORS as error:
        return f"{kind.call} fails ({model_fault(error)})"
    return None if worst <= tolerance else f"{kind.call} gives log-probabilities that are {worst:.2g} nats off"


def _refusal(name: str, problem: str | None) -> ConfigError:
    return ConfigError(
        f"rollout=hf: {name} cannot be sampled from with transformers ({problem}); type rollout=vllm, or "
        "model.path=FOLDER of another model"
    )


def _off_by(decoder: Decoder, batch: Sequence[int], expected: list[Tensor]) -> float:
    """How far the decoder's log-probabilities are from the expected ones, in nats, over prompts (a ``batch`` of their
    indices) and their completions; one row ends with each token, as in sampling."""
    k = len(PROBE_COMPLETIONS)
    rows, device = [p * k + i for p in batch for i in range(k)], expected[0].device
    starts = [len(PROBE_PROMPTS[p]) for p in batch for _ in range(k)]
    logits_RV = decoder.prefill([PROBE_PROMPTS[p] for p in batch]).repeat_interleave(k, 0)
    decoder.select(torch.arange(len(batch), device=device).repeat_interleave(k))
    differences = []
    for n in range(k):
        for row, start, logits_V in zip(rows, starts, logits_RV, strict=True):
            given_V = logits_V.float().log_softmax(-1)
            differences.append(largest_difference(given_V, expected[row][start + n - 1]))
        decoder.select(torch.arange(n > 0, len(rows), device=device))
        rows, starts = rows[n > 0 :], starts[n > 0 :]
        logits_RV = decoder.step(torch.tensor([PROBE_COMPLETIONS[row % k][n] for row in rows], device=device))
    return max(differences)
