"""``rollout=hf``: sampling with transformers, on a copy of the policy.

The k completions of a prompt share its prefill, and finished rows are removed from the batch. How the model is called
is found by trying it (``sampling.decoder``).
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo.errors import StageError
from dqo.models.attention import use_dqo_attention
from dqo.models.precision import Dtype
from dqo.models.rounding import rounded
from dqo.models.sizes import parameter_bytes
from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.decoder import decoder_of
from dqo.rollout.sampling.decoding import Batch, SampledRows
from dqo.rollout.sampling.record import end_tokens
from dqo.rollout.sampling.sampler import Sampler
from dqo.rollout.sampling.settings import Sampling
from dqo.stages import Weights


class Hf:
    """Samples completion i of a prompt with random numbers that depend on (seed, position, i) alone. Other rows of the
    batch affect it only through the rounding of matrix products: 1e-6 in float32; bfloat16 sometimes changes a token.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        sampling: Sampling,
        batch_rows: Annotated[int, Field(ge=1, examples=[64])],
        dtype: Dtype,
    ):
        self._sampling, self._decoder = sampling, decoder_of(policy.eval())
        self._sampler = Sampler(sampling)
        self._ends = torch.tensor(sorted(end_tokens(policy, tokenizer, sampling.stop_tokens)), device=policy.device)
        self._model, self._version = _copy(policy, dtype.on(policy.device)), 0
        self._tokenizer, self._max_length, self._batch_rows = tokenizer, sampling.max_completion_length, batch_rows

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Groups as they finish; one record may hold several. At most ``batch_rows`` rows are sampled at a time, and at
        least one group; where padding would change the model's output, prompts of one length.

        Raises StageError with the prompts' positions if logits are not finite.
        """
        groups = max(1, self._batch_rows // k)
        for together in [prompts] if self._decoder.mixes_lengths else _by_length(prompts):
            for start in range(0, len(together), groups):
                yield from self._sample(together[start : start + groups], k, seed)

    @torch.no_grad()
    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Copies the learner's weights, cast to this model's dtype. A tied tensor may have one or all of its names.

        Raises StageError for an unknown name, a wrong shape or a missing tensor.
        """
        own = self._model.state_dict()
        arrived = set()
        for name, tensor in weights:
            if name not in own:
                raise StageError("rollout", f"the learner sent {name}; {type(self._model).__name__} has no such tensor")
            if tensor.shape != own[name].shape:
                shapes = f"{[*own[name].shape]}; the learner sent {[*tensor.shape]}"
                raise StageError("rollout", f"{name} has the shape {shapes}")
            own[name].copy_(rounded(tensor, own[name].dtype))
            arrived.add(own[name].data_ptr())
        absent = [name for name, own_tensor in self._model.named_parameters() if own_tensor.data_ptr() not in arrived]
        if absent:
            raise StageError("rollout", f"the learner sent no {absent[0]}; {len(absent)} tensors are missing")
        self._version = version

    def set_decoding(self, **settings: int | float) -> None:
        """Sample with other settings from now on; what is not named stays."""
        self._sampling = replace(self._sampling, **settings)
        self._sampler = Sampler(self._sampling)

    def pause(self) -> None:
        """Frees the GPU memory of the last batch; the weights stay on the device."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def memory(self) -> dict[str, int]:
        """Bytes of the policy's copy, by what they are for."""
        return {"weights": parameter_bytes(self._model)}

    def _sample(self, prompts: Sequence[Prompt], k: int, seed: int) -> Iterator[Rollouts]:
        """Groups of one batch, as they finish."""
        sampled = SampledRows(prompts, k, self._max_length, self._model.device)
        batch = Batch.prefill(
            self._decoder(self._model), prompts, k=k, seed=seed, longest=self._max_length,
            penalized=self._sampler.penalty != 1,
        )  # fmt: skip
        for n in range(self._max_length):
            tokens_R, logprobs_R = batch.draw(self._sampler, n)
            sampled.tokens_BN[batch.rows, n], sampled.logprobs_BN[batch.rows, n] = tokens_R, logprobs_R
            # the only synchronization with the device per token
            ended_R, broken_R = torch.stack([torch.isin(tokens_R, self._ends), logprobs_R.isnan()]).cpu()
            if broken_R.any():
                positions = sorted({prompts[row // k].position for row in batch.rows[broken_R].tolist()})
                raise StageError("rollout", "the policy's logits are not finite", positions=positions)
            if groups := sampled.end(batch.rows[ended_R], n):
                yield sampled.record(groups, self._tokenizer, self._version)
            if not sampled.running_B.any():
                return
            batch.advance(tokens_R, sampled.running_B[batch.rows])


def _by_length(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Prompts of one length together, the shortest first."""
    lengths = sorted({len(prompt.tokens) for prompt in prompts})
    return [[prompt for prompt in prompts if len(prompt.tokens) == length] for length in lengths]


def _copy(policy: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of the policy with parameters in ``dtype``, made without a temporary float32 copy. Buffers keep their
    dtype: rotary frequencies in bfloat16 would be wrong."""
    cast = {
        id(parameter): torch.nn.Parameter(rounded(parameter.clone(), dtype), requires_grad=False)
        for parameter in policy.parameters()
    }
    model = copy.deepcopy(policy, memo=cast).eval()
    use_dqo_attention(model)
    return model
