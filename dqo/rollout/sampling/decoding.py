"""State of ``rollout=hf`` during sampling: all sampled tokens, and the batch of rows that are still running."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.decoder import Decoder
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

    decoder: Decoder
    rows: Int[Tensor, " rows"]  # indices into the B rows of SampledRows, on the CPU
    logits_RV: Float[Tensor, "rows vocabulary"]
    uniforms_RN: Float[Tensor, "rows longest"]
    seen_RV: Bool[Tensor, "rows vocabulary"] | None  # tokens of prompt and completion; None: no repetition penalty

    @classmethod
    @torch.no_grad()
    def prefill(
        cls, decoder: Decoder, prompts: Sequence[Prompt], *, k: int, seed: int, longest: int, penalized: bool
    ) -> "Batch":
        """A batch of all rows before their first token. Each prompt is computed once; its state and logits are then
        repeated k times."""
        logits_PV = decoder.prefill([prompt.tokens for prompt in prompts])
        device = logits_PV.device
        decoder.select(torch.arange(len(prompts), device=device).repeat_interleave(k))
        seen_RV = None
        if penalized:
            seen_PV = torch.zeros(logits_PV.shape, dtype=torch.bool, device=device)
            for p, prompt in enumerate(prompts):
                seen_PV[p, [*prompt.tokens]] = True
            seen_RV = seen_PV.repeat_interleave(k, 0)
        uniforms = [row_uniforms(seed, p.position, i, longest) for p in prompts for i in range(k)]
        return cls(
            decoder=decoder,
            rows=torch.arange(len(prompts) * k),
            logits_RV=logits_PV.repeat_interleave(k, 0),
            uniforms_RN=torch.stack(uniforms).to(device),
            seen_RV=seen_RV,
        )

    @torch.no_grad()
    def draw(self, sampler: Sampler, n: int) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Token n of each row, and its log-probability in nats."""
        return sampler(self.logits_RV, self.uniforms_RN[:, n], self.seen_RV)

    @torch.no_grad()
    def advance(self, tokens_R: Int[Tensor, " rows"], running_R: Bool[Tensor, " rows"]) -> None:
        """Computes the logits after these tokens. Removes ended rows first, once there are enough of them."""
        if len(running_R) - int(running_R.sum()) >= max(1, len(running_R) / COMPACTION_DIVISOR):
            tokens_R = self._compact(running_R, tokens_R)
        if self.seen_RV is not None:
            self.seen_RV.scatter_(1, tokens_R[:, None], True)
        self.logits_RV = self.decoder.step(tokens_R)

    def _compact(self, running_R: Bool[Tensor, " rows"], tokens_R: Int[Tensor, " rows"]) -> Int[Tensor, " kept"]:
        """The tokens of the running rows; removes all other rows from the batch."""
        kept = running_R.nonzero()[:, 0]
        self.rows, kept = self.rows[kept], kept.to(tokens_R.device)
        self.decoder.select(kept)
        self.uniforms_RN = self.uniforms_RN[kept]
        self.seen_RV = None if self.seen_RV is None else self.seen_RV[kept]
        return tokens_R[kept]
