"""``rollout=hf``: sampling with transformers, on a copy of the policy.

A prompt's k completions share its prefill, and finished rows leave the batch.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo.errors import ConfigError, StageError
from dqo.models.attention import use_dqo_attention
from dqo.models.precision import Dtype
from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.decoding import Batch, Drawn
from dqo.rollout.sampling.record import end_tokens
from dqo.rollout.sampling.sampler import Sampler
from dqo.stages import Weights


class Hf:
    """Completion i of a prompt is drawn with numbers of (seed, position, i) alone. Which rows are computed beside it
    matters only by the rounding of matrix products: 1e-6 in float32; in bfloat16 enough to change a token at times."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float,
        repetition_penalty: float,
        max_completion_length: int,
        stop_tokens: list[str],
        batch_rows: int,
        dtype: Dtype,
    ):
        if max_completion_length < 1:
            raise ConfigError(f"max_completion_length={max_completion_length}: at least 1 token is needed")
        if batch_rows < 1:
            raise ConfigError(f"rollout.batch_rows={batch_rows}: at least 1 is needed; type rollout.batch_rows=64")
        self._sampler = Sampler(
            temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, repetition_penalty=repetition_penalty
        )
        self._ends = torch.tensor(sorted(end_tokens(policy, tokenizer, stop_tokens)), device=policy.device)
        self._model, self._version = _copy(policy, dtype.on(policy.device)), 0
        self._tokenizer, self._longest, self._batch_rows = tokenizer, max_completion_length, batch_rows

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Groups as they finish, at most ``batch_rows`` rows at a time, but one group at least.

        Raises StageError for logits that are not finite.
        """
        together = max(1, self._batch_rows // k)
        for start in range(0, len(prompts), together):
            yield from self._sample(prompts[start : start + together], k, seed)

    @torch.no_grad()
    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Copied, with a cast to this dtype. A tied tensor may come under each of its names or under one."""
        own = self._model.state_dict()
        arrived = set()
        for name, tensor in weights:
            if name not in own:
                raise StageError("rollout", f"the learner sent {name}; {type(self._model).__name__} has no such tensor")
            if tensor.shape != own[name].shape:
                shapes = f"{[*own[name].shape]}; the learner sent {[*tensor.shape]}"
                raise StageError("rollout", f"{name} has the shape {shapes}")
            own[name].copy_(tensor)
            arrived.add(own[name].data_ptr())
        absent = [name for name, own_tensor in self._model.named_parameters() if own_tensor.data_ptr() not in arrived]
        if absent:
            raise StageError("rollout", f"the learner sent no {absent[0]}; {len(absent)} tensors are missing")
        self._version = version

    def pause(self) -> None:
        """Frees the memory of the last batch; the weights stay."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _sample(self, prompts: Sequence[Prompt], k: int, seed: int) -> Iterator[Rollouts]:
        """The groups that are sampled together, from prefill to the last token."""
        drawn = Drawn(prompts, k, self._longest, self._model.device)
        batch = Batch.prefill(
            self._model, prompts, k=k, seed=seed, longest=self._longest, penalised=self._sampler.penalty != 1
        )
        for n in range(self._longest):
            tokens_R, logprobs_R = batch.draw(self._sampler, n)
            drawn.tokens_BN[batch.rows, n], drawn.logprobs_BN[batch.rows, n] = tokens_R, logprobs_R
            # the one wait for the device in a step
            ended_R, broken_R = torch.stack([torch.isin(tokens_R, self._ends), logprobs_R.isnan()]).cpu()
            if broken_R.any():
                positions = sorted({prompts[row // k].position for row in batch.rows[broken_R].tolist()})
                raise StageError("rollout", "the policy's logits are not finite", positions=positions)
            if groups := drawn.end(batch.rows[ended_R], n):
                yield drawn.record(groups, self._tokenizer, self._version)
            if not drawn.running_B.any():
                return
            batch.advance(tokens_R, n, drawn.running_B[batch.rows])


def _copy(policy: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy with cast parameters, without a second float32 copy on the way. Buffers keep their precision: rotary
    frequencies in bfloat16 would be wrong."""
    cast = {
        id(parameter): torch.nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)
        for parameter in policy.parameters()
    }
    model = copy.deepcopy(policy, memo=cast).eval()
    use_dqo_attention(model)
    return model
