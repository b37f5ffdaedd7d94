import pytest
import torch

from dqo.batching import join, micro_batches, split
from tests.factories import make_experience, make_rollouts


def test_split_gives_one_group_each_as_wide_as_its_longest_row():
    experience = make_experience(prompts=3, k=4)
    groups = split(experience)
    assert [group.rollouts.prompts[0].position for group in groups] == [0, 1, 2]
    for p, group in enumerate(groups):
        rows = slice(4 * p, 4 * p + 4)
        assert group.rollouts.tokens_BT.shape == (4, int(experience.rollouts.lengths_B[rows].max()))
        assert group.rollouts.texts == experience.rollouts.texts[rows]
        assert torch.equal(group.credits_PK[0], experience.credits_PK[p])
        assert torch.equal(group.rewards.parts["check"][0], experience.rewards.parts["check"][p])


def test_join_undoes_split():
    experience = make_experience(prompts=3, k=4)
    joined = join(split(experience))
    assert torch.equal(joined.rollouts.tokens_BT, experience.rollouts.tokens_BT)
    assert torch.equal(joined.rollouts.sampled_BT, experience.rollouts.sampled_BT)
    assert torch.equal(joined.rewards.correct_PK, experience.rewards.correct_PK)
    assert torch.equal(joined.embeddings_PKD, experience.embeddings_PKD)
    assert joined.rollouts.prompts == experience.rollouts.prompts


def test_join_refuses_groups_of_different_size():
    with pytest.raises(ValueError, match="different k"):
        join([make_rollouts(["w1", "w2"], 2), make_rollouts(["w1", "w2", "w3"], 3)])
    with pytest.raises(ValueError, match="nothing to join"):
        join([])


def test_split_puts_groups_in_order_of_position():
    one, two = split(make_experience(prompts=2, k=3))
    assert [g.rollouts.prompts[0].position for g in split(join([two, one]))] == [0, 1]


def test_micro_batches_hold_the_budget_and_lose_nothing():
    lengths = [int(n) for n in torch.randint(1, 50, (200,), generator=torch.Generator().manual_seed(0))]
    batches = micro_batches(lengths, budget=64)
    assert sorted(i for batch in batches for i in batch) == list(range(200))
    assert all(sum(lengths[i] for i in batch) <= 64 for batch in batches)
    assert len(batches) <= 11 / 9 * -(-sum(lengths) // 64) + 1


def test_an_item_over_the_budget_is_alone():
    assert micro_batches([5, 3, 4], budget=8) == [[0, 1], [2]]
    assert micro_batches([100, 1], budget=8) == [[0], [1]]
