"""State of ``rollout=hf`` during sampling: all sampled tokens, and the batch of rows that are still running."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.record import record
from dqo.rollout.sampling.sampler import Sampler, row_uniforms

# Ended rows are removed once they are 1/8 of the batch: removal copies the KV cache, a tenth of the work of a step.
COMPACTION_DIVISOR = 8


class SampledRows:
    """All B = P*k rows of the groups in a batch: tokens and log-probabilities on the device, the rest on the CPU."""

    def __init__(self, prompts: Sequence[Prompt], k: int, longest: int, device: torch.device):
        rows = len(prompts) * k
        self.prompts, self.k, self._longest = prompts, k, longest
        self.tokens_BN = torch.zeros(rows, longest, dtype=torch.long, device=device)  # undefined from counts_B on
        self.logprobs_BN = torch.zeros(rows, longest, device=device)
        self.counts_B = torch.full((rows,), longest)
        self.finished_B = torch.zeros(rows, dtype=torch.bool)
        self.running_B = torch.ones(rows, dtype=torch.bool)

    def end(self, rows: Int[Tensor, " ended"], n: int) -> list[int]:
        """Indices of the groups that token n completes. Marks ``rows`` as ended, or all rows if n is the last token."""
        before_P = self.running_B.view(-1, self.k).any(1)
        rows = rows[self.running_B[rows]]  # rows that ended earlier may still be in the batch
        self.counts_B[rows], self.finished_B[rows], self.running_B[rows] = n + 1, True, False
        if n + 1 == self._longest:
            self.running_B[:] = False
        return (before_P & ~self.running_B.view(-1, self.k).any(1)).nonzero()[:, 0].tolist()

    def record(self, groups: Sequence[int], tokenizer: PreTrainedTokenizerBase, version: int) -> Rollouts:
        """The record of completed groups."""
        rows = [p * self.k + i for p in groups for i in range(self.k)]
        tokens_BN, logprobs_BN = self.tokens_BN[rows].cpu(), self.logprobs_BN[rows].cpu()
        counts = self.counts_B[rows].tolist()
        return record(
            [self.prompts[p] for p in groups],
            [row[:count] for row, count in zip(tokens_BN.tolist(), counts, strict=True)],
            [row[:count] for row, count in zip(logprobs_BN.tolist(), counts, strict=True)],
            self.finished_B[rows].tolist(), tokenizer=tokenizer, version=version,
        )  # fmt: skip


@dataclass
class Batch:
    """The rows in the model's batch, and the logits of their next token. R rows, V tokens in the vocabulary."""

    model: PreTrainedModel
    cache: DynamicCache
    rows: Int[Tensor, " rows"]  # indices into the B rows of SampledRows, on the CPU
    logits_RV: Float[Tensor, "rows vocabulary"]
    uniforms_RN: Float[Tensor, "rows longest"]
    starts_R1: Int[Tensor, "rows 1"]  # number of tokens of the prompt
    mask_RT: Int[Tensor, "rows tokens"] | None  # 0: left padding; None: all prompts have the same length
    seen_RV: Bool[Tensor, "rows vocabulary"] | None  # tokens of prompt and completion; None: no repetition penalty

    @classmethod
    @torch.no_grad()
    def prefill(
        cls, model: PreTrainedModel, prompts: Sequence[Prompt], *, k: int, seed: int, longest: int, penalized: bool
    ) -> "Batch":
        """A batch of all rows before their first token. Each prompt is computed once, with left padding; its KV cache
        and logits are then repeated k times."""
        starts_P = [len(prompt.tokens) for prompt in prompts]
        width, device = max(starts_P), model.device
        tokens_PT = torch.tensor([[0] * (width - len(p.tokens)) + [*p.tokens] for p in prompts], device=device)
        starts_P1 = torch.tensor(starts_P, device=device)[:, None]
        mask_PT = (torch.arange(width + longest, device=device) >= width - starts_P1).long()
        mask_RT = mask_PT.repeat_interleave(k, 0) if min(starts_P) < width else None
        cache = DynamicCache(config=model.config)
        logits_PV = model(
            input_ids=tokens_PT,
            attention_mask=None if mask_RT is None else mask_PT[:, :width],
            position_ids=(mask_PT[:, :width].cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.batch_repeat_interleave(k)
        seen_RV = None
        if penalized:
            seen_PV = torch.zeros(logits_PV.shape, dtype=torch.long, device=device)
            seen_RV = seen_PV.scatter_reduce(1, tokens_PT, mask_PT[:, :width], "amax").bool().repeat_interleave(k, 0)
        uniforms = [row_uniforms(seed, p.position, i, longest) for p in prompts for i in range(k)]
        return cls(
            model=model,
            cache=cache,
            rows=torch.arange(len(prompts) * k),
            logits_RV=logits_PV.repeat_interleave(k, 0),
            uniforms_RN=torch.stack(uniforms).to(device),
            starts_R1=starts_P1.repeat_interleave(k, 0),
            mask_RT=mask_RT,
            seen_RV=seen_RV,
        )

    @torch.no_grad()
    def draw(self, sampler: Sampler, n: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Token n of each row, and its log-probability in nats."""
        return sampler(self.logits_RV, self.uniforms_RN[:, n], self.seen_RV)

    @torch.no_grad()
    def advance(self, tokens_R: Int[Tensor, " rows"], n: int, running_R: Bool[Tensor, " rows"]) -> None:
        """Computes the logits after token n. Removes ended rows first, once there are enough of them."""
        if len(running_R) - int(running_R.sum()) >= max(1, len(running_R) / COMPACTION_DIVISOR):
            tokens_R = self._compact(running_R, tokens_R)
        if self.seen_RV is not None:
            self.seen_RV.scatter_(1, tokens_R[:, None], True)
        width = self.cache.get_seq_length() + 1
        self.logits_RV = self.model(
            input_ids=tokens_R[:, None],
            attention_mask=None if self.mask_RT is None else self.mask_RT[:, :width],
            position_ids=self.starts_R1 + n,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def _compact(self, running_R: Bool[Tensor, " rows"], tokens_R: Int[Tensor, " rows"]) -> Int[Tensor, " kept"]:
        """The tokens of the running rows; removes all other rows from the batch."""
        kept = running_R.nonzero()[:, 0]
        self.rows, kept = self.rows[kept], kept.to(tokens_R.device)
        self.cache.batch_select_indices(kept)
        self.uniforms_RN, self.starts_R1 = self.uniforms_RN[kept], self.starts_R1[kept]
        self.mask_RT = None if self.mask_RT is None else self.mask_RT[kept]
        self.seen_RV = None if self.seen_RV is None else self.seen_RV[kept]
        return tokens_R[kept]
