from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from dqo.learner.update.packing import Form, micro_batches
from dqo.models.attention import FLEX_BLOCK, segment_mask
from dqo.records import Prompt
from tests.factories import make_experience, make_rollouts


def prompt(*tokens: int) -> Prompt:
    return Prompt(position=0, tokens=tokens, content="", columns={})


@pytest.fixture
def two_groups():
    """Prompts of 4 and 2 tokens, k = 2; completions of 2, 3, 2 and 1 tokens, end token included."""
    return make_rollouts(["w1", "w2 w3", "w4", ""], 2, prompts=[prompt(10, 11, 12, 13), prompt(20, 21)])


def attended_tokens(batch):
    """{(sequence, place): all (sequence, place) that this token attends to}, read from index tensors and mask."""
    layout, (rows, length) = batch.shared_prompt, batch.tokens_RL.shape
    if batch.form is Form.FLEX:
        mask_RLL = create_mask(segment_mask(batch.mask).mask_mod, rows, None, length, length, device="cpu")[:, 0]
        return {(r, i): {(r, j) for j in mask_RLL[r, i].nonzero()[:, 0].tolist()}
                for r in range(rows) for i in range(length)}  # fmt: skip
    longest, completion = layout.longest_prompt, layout.queries_SC.shape[1]
    attended = {}
    for r in range(rows):
        for place in range(length):
            result = int(layout.results_RL[r, place])
            if result < rows * longest:
                row, query = divmod(result, longest)
                attended[r, place] = {(row, j) for j in range(query + 1)}
            else:
                s, query = divmod(result - rows * longest, completion)
                assert int(layout.queries_SC[s, query]) == r * length + place
                keys = layout.keys_SK[s][batch.mask[s, 0, query]].tolist()
                assert len(set(keys)) == len(keys)
                attended[r, place] = {divmod(key, length) for key in keys}
    return attended


def test_a_group_shares_its_prompt(two_groups):
    (batch,) = micro_batches(two_groups, [0, 1], budget=100, form=Form.SHARED)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1, 5, 6, 1]]
    assert batch.positions_RL.tolist() == [[0, 1, 2, 3, 4, 5, 4, 5, 6]]
    assert batch.rows_N.tolist() == [0, 0, 1, 1, 1]
    assert batch.columns_N.tolist() == [4, 5, 4, 5, 6]
    assert batch.targets_N.tolist() == [4, 1, 5, 6, 1]
    assert batch.sequences_N.tolist() == [0] * 5
    assert batch.sources_N.tolist() == [3, 4, 3, 6, 7]  # the prompt's last token predicts both first tokens
    assert (batch.groups, batch.padding) == ((0,), 0)
    own = [[], [], [], [], [4], [4, 5], [6], [6, 7], [6, 7, 8]]
    prompt = [range(min(place, 3) + 1) for place in range(9)]
    assert attended_tokens(batch) == {(0, i): {(0, j) for j in (*prompt[i], *own[i])} for i in range(9)}


def test_shorter_groups_are_padded_and_no_token_attends_to_padding(two_groups):
    (batch,) = micro_batches(two_groups, [0, 1, 2, 3], budget=100, form=Form.SHARED)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1, 5, 6, 1], [20, 21, 7, 1, 1, 0, 0, 0, 0]]
    assert batch.sources_N.tolist() == [3, 4, 3, 6, 7, 1, 2, 1]
    assert batch.sequences_N.tolist() == [0] * 5 + [1] * 3
    assert (batch.groups, batch.padding) == ((0, 1), 4)
    attended = attended_tokens(batch)
    assert attended[1, 3] == {(1, 0), (1, 1), (1, 2), (1, 3)}
    assert attended[1, 4] == {(1, 0), (1, 1), (1, 4)}
    assert attended[0, 8] == {(0, j) for j in (0, 1, 2, 3, 6, 7, 8)}
    assert batch.mask.any(-1).all()  # the softmax of a query without keys would be NaN


def test_the_compiled_kernel_gets_whole_blocks_and_the_same_mask(two_groups):
    (shared,) = micro_batches(two_groups, [0, 1, 2, 3], budget=2 * FLEX_BLOCK, form=Form.SHARED)
    (batch,) = micro_batches(two_groups, [0, 1, 2, 3], budget=2 * FLEX_BLOCK, form=Form.FLEX)
    assert batch.tokens_RL.shape == (2, FLEX_BLOCK)
    assert batch.padding == 2 * FLEX_BLOCK - 9 - 5
    assert torch.equal(batch.tokens_RL[:, :9], shared.tokens_RL)
    assert torch.equal(batch.positions_RL[:, :9], shared.positions_RL)
    assert batch.mask[:, :10].tolist() == [[0, 0, 0, 0, 1, 1, 2, 2, 2, -1], [0, 0, 3, 3, 4, -1, -1, -1, -1, -1]]
    expected, attended = attended_tokens(shared), attended_tokens(batch)
    tokens = {(r, j) for r, length in enumerate((9, 5)) for j in range(length)}
    assert {token: attended[token] for token in tokens} == {token: expected[token] for token in tokens}
    assert all((r, j) in keys for (r, j), keys in attended.items())  # a softmax without keys would be NaN
    assert all(keys.isdisjoint(tokens) for token, keys in attended.items() if token not in tokens)


def test_the_plain_form_has_one_sequence_per_completion(two_groups):
    (batch,) = micro_batches(two_groups, [0, 2, 3], budget=100, form=Form.PLAIN)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1], [20, 21, 7, 1, 0, 0], [20, 21, 1, 0, 0, 0]]
    assert batch.mask.tolist() == [[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3]
    assert batch.rows_N.tolist() == [0, 0, 2, 2, 3]
    assert batch.sequences_N.tolist() == [0, 0, 1, 1, 2]
    assert batch.sources_N.tolist() == [3, 4, 1, 2, 1]
    assert batch.padding == 5


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("budget", [1, 9, 16, 25, 60, 300, 1000])
def test_micro_batches_hold_every_sampled_token_once_within_the_budget(form, budget):
    rollouts = make_experience(prompts=3, k=5).rollouts
    batches = micro_batches(rollouts, list(range(15)), budget=budget, form=form)
    for batch in batches:
        assert batch.tokens_RL.numel() <= budget or len(set(batch.rows_N.tolist())) == 1
        places = batch.tokens_RL[batch.sequences_N, batch.sources_N]
        before = rollouts.tokens_BT[batch.rows_N, batch.columns_N - 1]
        assert torch.equal(places, before)
        assert form is not Form.SINGLE or (len(batch.tokens_RL), batch.padding) == (1, 0)
    found = torch.cat([torch.stack([batch.rows_N, batch.columns_N], dim=1) for batch in batches])
    assert sorted(found.tolist()) == rollouts.sampled_BT.nonzero().tolist()
    assert budget > 1 or len(batches) == 15


def test_a_group_above_the_budget_is_split_and_repeats_its_prompt(two_groups):
    first, second = micro_batches(two_groups, [0, 1], budget=7, form=Form.SHARED)
    assert first.tokens_RL.tolist() == [[10, 11, 12, 13, 5, 6, 1]]  # longest first
    assert second.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1]]


@pytest.mark.parametrize("form", Form)
def test_tokens_that_were_not_sampled_are_input_but_not_trained(two_groups, form):
    """A multi-turn row with a tool's output in the middle."""
    sampled_BT = two_groups.sampled_BT.clone()
    sampled_BT[1, 5] = False
    rollouts = replace(two_groups, sampled_BT=sampled_BT)
    (batch,) = micro_batches(rollouts, [1], budget=100, form=form)
    assert batch.tokens_RL[:, : batch.tokens_RL.numel() - batch.padding].tolist() == [[10, 11, 12, 13, 5, 6, 1]]
    assert batch.sources_N.tolist() == [3, 5]
    assert batch.columns_N.tolist() == [4, 6]


def test_rows_without_a_sampled_token_are_left_out(two_groups):
    rollouts = replace(two_groups, sampled_BT=torch.zeros_like(two_groups.sampled_BT))
    assert micro_batches(rollouts, [0, 1, 2, 3], budget=100, form=Form.SHARED) == []
    assert micro_batches(two_groups, [], budget=100, form=Form.SHARED) == []


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    prompts=st.integers(1, 4), k=st.integers(1, 4), words=st.integers(2, 12), budget=st.integers(1, 80),
    form=st.sampled_from(Form), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_every_sampled_token_is_packed_once_and_the_budget_holds(prompts, k, words, budget, form, seed, data):
    rollouts = make_experience(prompts=prompts, k=k, words=words, seed=seed).rollouts
    rows = sorted(data.draw(st.sets(st.integers(0, prompts * k - 1))))
    batches = micro_batches(rollouts, rows, budget=budget, form=form)
    packed = Counter(
        place for batch in batches for place in zip(batch.rows_N.tolist(), batch.columns_N.tolist(), strict=True)
    )
    sampled = {(row, column) for row in rows for column in rollouts.sampled_BT[row].nonzero()[:, 0].tolist()}
    assert packed == Counter(sampled)
    for batch in batches:
        assert batch.tokens_RL.numel() <= budget or len(batch.rows_N.unique()) == 1
        assert torch.equal(batch.targets_N, rollouts.tokens_BT[batch.rows_N, batch.columns_N])
        before = rollouts.tokens_BT[batch.rows_N, batch.columns_N - 1]
        assert torch.equal(batch.tokens_RL[batch.sequences_N, batch.sources_N], before)
