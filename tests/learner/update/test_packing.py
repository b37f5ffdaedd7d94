from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqo.learner.update.packing import micro_batches
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
    (batch,) = micro_batches(two_groups, [0, 1], budget=100, shared=True)
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
    (batch,) = micro_batches(two_groups, [0, 1, 2, 3], budget=100, shared=True)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1, 5, 6, 1], [20, 21, 7, 1, 1, 0, 0, 0, 0]]
    assert batch.sources_N.tolist() == [3, 4, 3, 6, 7, 1, 2, 1]
    assert batch.sequences_N.tolist() == [0] * 5 + [1] * 3
    assert (batch.groups, batch.padding) == ((0, 1), 4)
    attended = attended_tokens(batch)
    assert attended[1, 3] == {(1, 0), (1, 1), (1, 2), (1, 3)}
    assert attended[1, 4] == {(1, 0), (1, 1), (1, 4)}
    assert attended[0, 8] == {(0, j) for j in (0, 1, 2, 3, 6, 7, 8)}
    assert batch.mask.any(-1).all()  # the softmax of a query without keys would be NaN


def test_the_plain_form_has_one_sequence_per_completion(two_groups):
    (batch,) = micro_batches(two_groups, [0, 2, 3], budget=100, shared=False)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1], [20, 21, 7, 1, 0, 0], [20, 21, 1, 0, 0, 0]]
    assert batch.mask.tolist() == [[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3]
    assert batch.rows_N.tolist() == [0, 0, 2, 2, 3]
    assert batch.sequences_N.tolist() == [0, 0, 1, 1, 2]
    assert batch.sources_N.tolist() == [3, 4, 1, 2, 1]
    assert batch.padding == 5


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [1, 9, 16, 25, 60, 1000])
def test_micro_batches_hold_every_sampled_token_once_within_the_budget(shared, budget):
    rollouts = make_experience(prompts=3, k=5).rollouts
    batches = micro_batches(rollouts, list(range(15)), budget=budget, shared=shared)
    for batch in batches:
        assert batch.tokens_RL.numel() <= budget or len(set(batch.rows_N.tolist())) == 1
        places = batch.tokens_RL[batch.sequences_N, batch.sources_N]
        before = rollouts.tokens_BT[batch.rows_N, batch.columns_N - 1]
        assert torch.equal(places, before)
    found = torch.cat([torch.stack([batch.rows_N, batch.columns_N], dim=1) for batch in batches])
    assert sorted(found.tolist()) == rollouts.sampled_BT.nonzero().tolist()
    assert budget > 1 or len(batches) == 15


def test_a_group_above_the_budget_is_split_and_repeats_its_prompt(two_groups):
    first, second = micro_batches(two_groups, [0, 1], budget=7, shared=True)
    assert first.tokens_RL.tolist() == [[10, 11, 12, 13, 5, 6, 1]]  # longest first
    assert second.tokens_RL.tolist() == [[10, 11, 12, 13, 4, 1]]


@pytest.mark.parametrize("shared", [True, False])
def test_tokens_that_were_not_sampled_are_input_but_not_trained(two_groups, shared):
    """A multi-turn row with a tool's output in the middle."""
    sampled_BT = two_groups.sampled_BT.clone()
    sampled_BT[1, 5] = False
    rollouts = replace(two_groups, sampled_BT=sampled_BT)
    (batch,) = micro_batches(rollouts, [1], budget=100, shared=shared)
    assert batch.tokens_RL.tolist() == [[10, 11, 12, 13, 5, 6, 1]]
    assert batch.sources_N.tolist() == [3, 5]
    assert batch.columns_N.tolist() == [4, 6]


def test_rows_without_a_sampled_token_are_left_out(two_groups):
    rollouts = replace(two_groups, sampled_BT=torch.zeros_like(two_groups.sampled_BT))
    assert micro_batches(rollouts, [0, 1, 2, 3], budget=100, shared=True) == []
    assert micro_batches(two_groups, [], budget=100, shared=True) == []


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    prompts=st.integers(1, 4), k=st.integers(1, 4), words=st.integers(2, 12), budget=st.integers(1, 80),
    shared=st.booleans(), seed=st.integers(0, 99), data=st.data(),
)  # fmt: skip
def test_every_sampled_token_is_packed_once_and_the_budget_holds(prompts, k, words, budget, shared, seed, data):
    rollouts = make_experience(prompts=prompts, k=k, words=words, seed=seed).rollouts
    rows = sorted(data.draw(st.sets(st.integers(0, prompts * k - 1))))
    batches = micro_batches(rollouts, rows, budget=budget, shared=shared)
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
