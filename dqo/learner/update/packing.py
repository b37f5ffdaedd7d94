"""From rollouts to micro-batches of at most a given number of tokens, in several forms.

Shared forms: one sequence per group, [prompt, c_1 … c_m]. Each completion attends to the prompt and to itself, and its
positions continue the prompt's, so the prompt is computed once. The others: one sequence per completion, [prompt, c].
All give the same log-probabilities. The shared forms need a model that can use dqo's attention, the others but
``SINGLE`` one that padding on the right does not change (``forms`` tries a model). Groups of similar length are put
together to keep padding small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dqo.models.attention import FLEX_BLOCK, PADDING, SharedPrompt
from dqo.records import Rollouts

POLICY, CRITIC = "policy", "critic"  # names of trained models


class Form(StrEnum):
    """From the fastest to the one that needs least of a model."""

    FLEX = "flex"  # shared, on a GPU: a compiled kernel that leaves out what no query attends to
    SHARED = "shared"
    PLAIN = "plain"  # without a mask: padding comes after all real tokens, and attention is causal
    MASKED = "masked"  # plain, with a mask over padding
    SINGLE = "single"  # masked, one completion per micro-batch, so without padding

    @property
    def shares_prompts(self) -> bool:
        """Whether a group is one sequence."""
        return self in (Form.FLEX, Form.SHARED)


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """The input of one forward pass, and the place of each sampled token in it and in the rollouts.

    R sequences of L tokens; N sampled tokens, in the order of the rollouts' rows. Example: one group with a 4-token
    prompt and two completions of 2 tokens: R = 1, L = 8, N = 4, sources 3, 4, 3, 6. Both first tokens have source 3:
    the prompt's last token predicts them.
    """

    form: Form
    tokens_RL: Int[Tensor, "sequences length"]  # 0 after a sequence's end
    positions_RL: Int[Tensor, "sequences length"]
    # SHARED: who attends to whom; FLEX: see ``attention.segment_mask``; the others: 1 for a token, 0 for padding
    mask: Bool[Tensor, "completions 1 completion keys"] | Int[Tensor, "sequences length"]
    shared_prompt: SharedPrompt | None  # of SHARED alone
    rows_N: Int[Tensor, " sampled"]  # sampled token n is rollouts.tokens_BT[rows_N[n], columns_N[n]]
    columns_N: Int[Tensor, " sampled"]
    targets_N: Int[Tensor, " sampled"]  # token id of sampled token n
    sequences_N: Int[Tensor, " sampled"]  # tokens_RL[sequences_N[n], sources_N[n]] predicts sampled token n
    sources_N: Int[Tensor, " sampled"]
    groups: tuple[int, ...]  # indices into rollouts.prompts of the groups in this micro-batch
    padding: int  # padding tokens in tokens_RL
    supervised: bool = False  # True: rows and groups are indices into ``Objective.supervised``
    model: str = POLICY  # the trained model whose pass it is for


def micro_batches(rollouts: Rollouts, rows: Sequence[int], *, budget: int, form: Form) -> list[MicroBatch]:
    """Micro-batches of the given rows, at most ``budget`` tokens each with padding, longest sequences first.

    A group above the budget is split and its prompt repeated. A single completion above the budget gets a micro-batch
    of its own. Rows without a sampled token are left out.
    """
    budget = 0 if form is Form.SINGLE else budget
    has_sampled, lengths = rollouts.sampled_BT.any(1).tolist(), rollouts.lengths_B.tolist()
    prompts = [len(prompt.tokens) for prompt in rollouts.prompts]
    sequences: list[list[int]] = []  # each is a list of rows
    sizes: list[int] = []  # tokens of each sequence
    for row in (row for row in rows if has_sampled[row]):
        own = lengths[row] - prompts[row // rollouts.k]
        same = form.shares_prompts and sequences and sequences[-1][0] // rollouts.k == row // rollouts.k
        if same and _padded(sizes[-1] + own, form) <= budget:
            sequences[-1].append(row)
            sizes[-1] += own
        else:
            sequences.append([row])
            sizes.append(lengths[row])
    batches: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda i: (-sizes[i], i)):
        if batches and (len(batches[-1]) + 1) * _padded(sizes[batches[-1][0]], form) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [_packed(rollouts, [sequences[i] for i in sorted(batch)], form) for batch in batches]


def _padded(length: int, form: Form) -> int:
    """The length of sequences: whole blocks for the compiled kernel, which is made anew for other lengths."""
    return -(-length // FLEX_BLOCK) * FLEX_BLOCK if form is Form.FLEX else length


def _packed(rollouts: Rollouts, sequences: Sequence[Sequence[int]], form: Form) -> MicroBatch:
    """One micro-batch. S: all rows in it; M: all tokens of their completions, sampled or not."""
    counts_R = torch.tensor([len(rows) for rows in sequences])
    rows_S = torch.tensor([row for rows in sequences for row in rows])
    sequences_S = torch.arange(len(sequences)).repeat_interleave(counts_R)
    prompts_S = torch.tensor([len(prompt.tokens) for prompt in rollouts.prompts])[rows_S // rollouts.k]
    lengths_S = rollouts.lengths_B[rows_S] - prompts_S
    first_R, before_S = counts_R.cumsum(0) - counts_R, lengths_S.cumsum(0) - lengths_S
    starts_S = prompts_S + before_S - before_S[first_R][sequences_S]
    ends_R = (starts_S + lengths_S)[first_R + counts_R - 1]

    tokens_RL = torch.zeros(len(sequences), _padded(int(ends_R.max()), form), dtype=torch.long)
    positions_RL = torch.zeros_like(tokens_RL)
    r, offset = _token_indices(prompts_S[first_R])
    tokens_RL[r, offset], positions_RL[r, offset] = rollouts.tokens_BT[rows_S[first_R][r], offset], offset
    s, offset_M = _token_indices(lengths_S)
    rows_M, columns_M = rows_S[s], prompts_S[s] + offset_M
    sequences_M, places_M = sequences_S[s], starts_S[s] + offset_M
    tokens_RL[sequences_M, places_M] = rollouts.tokens_BT[rows_M, columns_M]
    positions_RL[sequences_M, places_M] = columns_M
    # the token before predicts it; before a completion's first token that is the prompt's last token
    sources_M = torch.where(offset_M == 0, columns_M, places_M) - 1

    sampled_M = rollouts.sampled_BT[rows_M, columns_M]
    rows_N, columns_N = rows_M[sampled_M], columns_M[sampled_M]
    mask, shared_prompt = (torch.arange(tokens_RL.shape[1]) < ends_R[:, None]).long(), None
    if form is Form.SHARED:
        mask, shared_prompt = _shared_prompt_layout(tokens_RL.shape, sequences_S, prompts_S, starts_S, lengths_S)
    elif form is Form.FLEX:
        mask = torch.where(mask == 1, 0, PADDING)
        mask[sequences_M, places_M] = 1 + s
    return MicroBatch(
        form=form,
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


def _token_indices(lengths_S: Int[Tensor, " sequences"]) -> tuple[Tensor, Tensor]:
    """(sequence, offset) of every token of sequences with these lengths, sequence by sequence."""
    s, offset = (torch.arange(int(lengths_S.max())) < lengths_S[:, None]).nonzero(as_tuple=True)
    return s, offset


def _shared_prompt_layout(
    shape: torch.Size, sequences_S: Tensor, prompts_S: Tensor, starts_S: Tensor, lengths_S: Tensor
) -> tuple[Bool[Tensor, "completions 1 completion keys"], SharedPrompt]:
    """The attention mask of the shared form, and the index tensors to gather queries and keys. Every query attends to
    at least one key: the softmax of a query without keys would be NaN."""
    (rows, length), completions = shape, len(sequences_S)
    prompt_P, own_C = torch.arange(int(prompts_S.max())), torch.arange(int(lengths_S.max()))
    in_prompt_SP, in_own_SC = prompt_P < prompts_S[:, None], own_C < lengths_S[:, None]
    keys_SP = sequences_S[:, None] * length + prompt_P
    queries_SC = (sequences_S * length + starts_S)[:, None] + own_C.minimum(lengths_S[:, None] - 1)
    results_RL = torch.zeros(rows, length, dtype=torch.long)  # 0 for padding: never read
    results = results_RL.view(-1)
    results[keys_SP[in_prompt_SP]] = (sequences_S[:, None] * len(prompt_P) + prompt_P)[in_prompt_SP]
    results[queries_SC[in_own_SC]] = rows * len(prompt_P) + in_own_SC.view(-1).nonzero()[:, 0]
    causal_CC = own_C <= own_C[:, None]
    mask_parts = [in_prompt_SP[:, None].expand(-1, len(own_C), -1), causal_CC.expand(completions, -1, -1)]
    return torch.cat(mask_parts, dim=-1)[:, None], SharedPrompt(
        longest_prompt=len(prompt_P),
        queries_SC=queries_SC,
        keys_SK=torch.cat([keys_SP, queries_SC], dim=1),
        results_RL=results_RL,
    )
