"""From rollouts to micro-batches of a token budget, in two forms. No engine in here.

Shared: one sequence a group, [prompt, c_1 … c_m], in which each completion sees the prompt and itself and continues the
prompt's positions: the prompt is computed once. Plain: one sequence a completion, [prompt, c]. Both give the same
log-probabilities where a model's attention can be ours (``logprobs.check_shared_prompt``); plain works with any model.
Groups of like length are put together, so that little is padded.
"""

from collections.abc import Iterator, Sequence
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
    rows = [row for row in rows if rollouts.sampled_BT[row].any()]
    sequences = list(_shared(rollouts, rows, budget)) if shared else [[row] for row in rows]
    lengths = [_length(rollouts, sequence) for sequence in sequences]
    batches: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return [_packed(rollouts, [sequences[i] for i in sorted(batch)], shared) for batch in batches]


def _shared(rollouts: Rollouts, rows: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Rows of one prompt together, in order, as many as fit."""
    current: list[int] = []
    for row in rows:
        same = current and current[0] // rollouts.k == row // rollouts.k
        if same and _length(rollouts, [*current, row]) <= budget:
            current.append(row)
        else:
            if current:
                yield current
            current = [row]
    if current:
        yield current


def _prompt_length(rollouts: Rollouts, row: int) -> int:
    return len(rollouts.prompts[row // rollouts.k].tokens)


def _length(rollouts: Rollouts, sequence: Sequence[int]) -> int:
    prompt = _prompt_length(rollouts, sequence[0])
    return prompt + sum(int(rollouts.lengths_B[row]) - prompt for row in sequence)


def _packed(rollouts: Rollouts, sequences: Sequence[Sequence[int]], shared: bool) -> MicroBatch:
    lengths = torch.tensor([_length(rollouts, sequence) for sequence in sequences])
    tokens_RL = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    positions_RL = torch.zeros_like(tokens_RL)
    completions: list[tuple[int, int, int, int]] = []  # sequence, its prompt's length, start, length
    sampled: list[Tensor] = []  # of each row: its row, column, sequence and source, by token
    for r, rows in enumerate(sequences):
        prompt = _prompt_length(rollouts, rows[0])
        tokens_RL[r, :prompt] = rollouts.tokens_BT[rows[0], :prompt]
        positions_RL[r, :prompt] = torch.arange(prompt)
        start = prompt
        for row in rows:
            end = start + int(rollouts.lengths_B[row]) - prompt
            tokens_RL[r, start:end] = rollouts.tokens_BT[row, prompt : prompt + end - start]
            positions_RL[r, start:end] = torch.arange(prompt, prompt + end - start)
            completions.append((r, prompt, start, end - start))
            columns = rollouts.sampled_BT[row].nonzero()[:, 0]
            # predicted by the token before, which for a completion's first token is the prompt's last
            sources = torch.where(columns == prompt, prompt - 1, columns - prompt + start - 1)
            sampled.append(torch.stack([torch.full_like(columns, row), columns, torch.full_like(columns, r), sources]))
            start = end
    rows_N, columns_N, sequences_N, sources_N = torch.cat(sampled, dim=1)
    if shared:
        mask, shared_prompt = _behind_prompts(completions, *tokens_RL.shape)
    else:
        mask, shared_prompt = (torch.arange(tokens_RL.shape[1]) < lengths[:, None]).long(), None
    return MicroBatch(
        tokens_RL=tokens_RL,
        positions_RL=positions_RL,
        mask=mask,
        shared_prompt=shared_prompt,
        rows_N=rows_N,
        columns_N=columns_N,
        targets_N=rollouts.tokens_BT[rows_N, columns_N],
        sequences_N=sequences_N,
        sources_N=sources_N,
        groups=tuple(sorted({row // rollouts.k for rows in sequences for row in rows})),
        padding=tokens_RL.numel() - int(lengths.sum()),
    )


def _behind_prompts(
    completions: Sequence[tuple[int, int, int, int]], rows: int, length: int
) -> tuple[Bool[Tensor, "completions 1 completion keys"], SharedPrompt]:
    """Which keys each completion's queries look at, and where these are. No query sees nothing, which would make the
    softmax NaN."""
    sequences_S, prompts_S, starts_S, lengths_S = torch.tensor(completions).T[..., None]
    longest_prompt, longest = int(prompts_S.max()), int(lengths_S.max())
    prompt_P, own_C = torch.arange(longest_prompt), torch.arange(longest)
    queries_SC = sequences_S * length + starts_S + own_C.minimum(lengths_S - 1)
    results_RL = torch.zeros(rows, length, dtype=torch.long)  # padding's too: nobody reads them
    for s, (r, prompt, start, size) in enumerate(completions):
        results_RL[r, :prompt] = r * longest_prompt + prompt_P[:prompt]
        results_RL[r, start : start + size] = rows * longest_prompt + s * longest + own_C[:size]
    seen_SCP = (prompt_P < prompts_S)[:, None].expand(-1, longest, -1)
    seen_SCC = (own_C <= own_C[:, None]).expand(len(completions), -1, -1)
    return torch.cat([seen_SCP, seen_SCC], dim=-1)[:, None], SharedPrompt(
        longest_prompt=longest_prompt,
        queries_SC=queries_SC,
        keys_SK=torch.cat([sequences_S * length + prompt_P, queries_SC], dim=1),
        results_RL=results_RL,
    )
