"""From rollouts to micro-batches of a token budget, in two forms. No engine in here.

Shared: one sequence a group, [prompt, c_1 … c_m], in which each completion sees the prompt and itself and continues the
prompt's positions: the prompt is computed once. Plain: one sequence a completion, [prompt, c]. Both give the same
log-probabilities where a model's attention can be ours (``logprobs.use_shared_prompt``); plain works with any model.
Groups of like length are put together, so that little is padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dqo.models.attention import SharedPrompt
from dqo.records import Rollouts


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one forward pass takes, and where its sampled tokens come from. R sequences of L tokens, N sampled tokens in
    the order of their rows. Example: one group of a 4-token prompt and two completions of 2: R = 1, L = 8, N = 4,
    sources 3, 4, 3, 6: the prompt's last token predicts both first tokens."""

    tokens_RL: Int[Tensor, "sequences length"]  # 0 behind a sequence's end
    positions_RL: Int[Tensor, "sequences length"]
    mask: Bool[Tensor, "completions 1 completion keys"] | Int[Tensor, "sequences length"]  # shared | plain
    shared_prompt: SharedPrompt | None  # None: the plain form
    rows_N: Int[Tensor, " sampled"]  # token n is tokens_BT[rows_N[n], columns_N[n]] of the rollouts …
    columns_N: Int[Tensor, " sampled"]
    targets_N: Int[Tensor, " sampled"]  # its id
    sequences_N: Int[Tensor, " sampled"]  # … and is predicted at [sequences_N[n], sources_N[n]] here
    sources_N: Int[Tensor, " sampled"]
    groups: tuple[int, ...]  # whose completions are in here: indices into rollouts.prompts
    padding: int  # tokens


def micro_batches(rollouts: Rollouts, rows: Sequence[int], *, budget: int, shared: bool) -> list[MicroBatch]:
    """The given rows in micro-batches of at most ``budget`` tokens, padding included, longest first.

    A group over the budget is cut, and its prompt repeated; a single completion over it is alone in a micro-batch. Rows
    without a sampled token are left out.
    """
    has_sampled, lengths = rollouts.sampled_BT.any(1).tolist(), rollouts.lengths_B.tolist()
    prompts = [len(prompt.tokens) for prompt in rollouts.prompts]
    sequences: list[list[int]] = []  # of rows
    sizes: list[int] = []  # their tokens
    for row in (row for row in rows if has_sampled[row]):
        own = lengths[row] - prompts[row // rollouts.k]
        same = shared and sequences and sequences[-1][0] // rollouts.k == row // rollouts.k
        if same and sizes[-1] + own <= budget:
            sequences[-1].append(row)
            sizes[-1] += own
        else:
            sequences.append([row])
            sizes.append(lengths[row])
    batches: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda i: (-sizes[i], i)):
        if batches and (len(batches[-1]) + 1) * sizes[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [_packed(rollouts, [sequences[i] for i in sorted(batch)], shared) for batch in batches]


def _packed(rollouts: Rollouts, sequences: Sequence[Sequence[int]], shared: bool) -> MicroBatch:
    """Of S rows with M tokens in their completions, sampled or not."""
    counts_R = torch.tensor([len(rows) for rows in sequences])
    rows_S = torch.tensor([row for rows in sequences for row in rows])
    sequences_S = torch.arange(len(sequences)).repeat_interleave(counts_R)
    prompts_S = torch.tensor([len(prompt.tokens) for prompt in rollouts.prompts])[rows_S // rollouts.k]
    lengths_S = rollouts.lengths_B[rows_S] - prompts_S
    first_R, before_S = counts_R.cumsum(0) - counts_R, lengths_S.cumsum(0) - lengths_S
    starts_S = prompts_S + before_S - before_S[first_R][sequences_S]
    ends_R = (starts_S + lengths_S)[first_R + counts_R - 1]

    tokens_RL = torch.zeros(len(sequences), int(ends_R.max()), dtype=torch.long)
    positions_RL = torch.zeros_like(tokens_RL)
    r, place = _within(prompts_S[first_R])
    tokens_RL[r, place], positions_RL[r, place] = rollouts.tokens_BT[rows_S[first_R][r], place], place
    s, own_M = _within(lengths_S)
    rows_M, columns_M = rows_S[s], prompts_S[s] + own_M
    sequences_M, places_M = sequences_S[s], starts_S[s] + own_M
    tokens_RL[sequences_M, places_M] = rollouts.tokens_BT[rows_M, columns_M]
    positions_RL[sequences_M, places_M] = columns_M
    # predicted by the token before, which for a completion's first token is the prompt's last
    sources_M = torch.where(own_M == 0, columns_M, places_M) - 1

    sampled_M = rollouts.sampled_BT[rows_M, columns_M]
    rows_N, columns_N = rows_M[sampled_M], columns_M[sampled_M]
    if shared:
        mask, shared_prompt = _behind_prompts(tokens_RL.shape, sequences_S, prompts_S, starts_S, lengths_S)
    else:
        mask, shared_prompt = (torch.arange(tokens_RL.shape[1]) < ends_R[:, None]).long(), None
    return MicroBatch(
        tokens_RL=tokens_RL,
        positions_RL=positions_RL,
        mask=mask,
        shared_prompt=shared_prompt,
        rows_N=rows_N,
        columns_N=columns_N,
        targets_N=rollouts.tokens_BT[rows_N, columns_N],
        sequences_N=sequences_M[sampled_M],
        sources_N=sources_M[sampled_M],
        groups=tuple(sorted({row // rollouts.k for rows in sequences for row in rows})),
        padding=tokens_RL.numel() - int(ends_R.sum()),
    )


def _within(lengths_S: Int[Tensor, " sequences"]) -> tuple[Tensor, Tensor]:
    """For each token of sequences that are so long, one after the other: which sequence, and where in it."""
    s, place = (torch.arange(int(lengths_S.max())) < lengths_S[:, None]).nonzero(as_tuple=True)
    return s, place


def _behind_prompts(
    shape: torch.Size, sequences_S: Tensor, prompts_S: Tensor, starts_S: Tensor, lengths_S: Tensor
) -> tuple[Bool[Tensor, "completions 1 completion keys"], SharedPrompt]:
    """Which keys each completion's queries look at, and where these are. No query sees nothing, which would make the
    softmax NaN."""
    (rows, length), completions = shape, len(sequences_S)
    prompt_P, own_C = torch.arange(int(prompts_S.max())), torch.arange(int(lengths_S.max()))
    in_prompt_SP, in_own_SC = prompt_P < prompts_S[:, None], own_C < lengths_S[:, None]
    keys_SP = sequences_S[:, None] * length + prompt_P
    queries_SC = (sequences_S * length + starts_S)[:, None] + own_C.minimum(lengths_S[:, None] - 1)
    results_RL = torch.zeros(rows, length, dtype=torch.long)  # padding's too: nobody reads them
    results = results_RL.view(-1)
    results[keys_SP[in_prompt_SP]] = (sequences_S[:, None] * len(prompt_P) + prompt_P)[in_prompt_SP]
    results[queries_SC[in_own_SC]] = rows * len(prompt_P) + in_own_SC.view(-1).nonzero()[:, 0]
    causal_CC = own_C <= own_C[:, None]
    seen = [in_prompt_SP[:, None].expand(-1, len(own_C), -1), causal_CC.expand(completions, -1, -1)]
    return torch.cat(seen, dim=-1)[:, None], SharedPrompt(
        longest_prompt=len(prompt_P),
        queries_SC=queries_SC,
        keys_SK=torch.cat([keys_SP, queries_SC], dim=1),
        results_RL=results_RL,
    )
