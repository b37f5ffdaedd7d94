from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dqo.batching import first_group, join, split
from dqo.records import PER_ROW, PER_TOKEN, Experience, Rollouts
from tests.factories import make_experience, make_rollouts


def assert_equal(one, other) -> None:
    """Records with equal fields."""
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, theirs, rtol=0, atol=0, equal_nan=True, msg=name)
        elif hasattr(value, "__dataclass_fields__"):
            assert_equal(value, theirs)
        elif name == "parts":
            assert value.keys() == theirs.keys()
            assert all(torch.equal(value[part], theirs[part]) for part in value)
        else:
            assert value == theirs, name


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


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.integers(1, 5), k=st.integers(1, 5), words=st.integers(2, 9), seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_joining_the_groups_in_any_order_and_splitting_again_gives_them_back(prompts, k, words, seed, order):
    experience = make_experience(prompts=prompts, k=k, words=words, seed=seed)
    groups = split(experience)
    assert_equal(join(groups), experience)
    shuffled = order.sample(groups, len(groups))
    for one, other in zip(split(join(shuffled)), groups, strict=True):
        assert_equal(one, other)


def test_the_first_group_is_that_of_the_first_prompt():
    experience = make_experience(prompts=2, k=3)
    assert_equal(first_group(experience.rollouts), split(experience)[0].rollouts)


def test_join_refuses_groups_of_different_size():
    with pytest.raises(ValueError, match="different k"):
        join([make_rollouts(["w1", "w2"], 2), make_rollouts(["w1", "w2", "w3"], 3)])
    with pytest.raises(ValueError, match="nothing to join"):
        join([])


def test_join_refuses_parts_with_and_without_a_field():
    one, other = split(make_experience(prompts=2, k=3))
    with pytest.raises(ValueError, match="with and without embeddings_PKD"):
        join([one, replace(other, embeddings_PKD=None)])


@dataclass(frozen=True, kw_only=True)
class ToolRollouts(Rollouts):
    """What a multi-turn rollout may add: one conversation a row, and a mask of the tokens that tools wrote."""

    messages: tuple[list[dict], ...] = field(metadata=PER_ROW)
    tool_BT: torch.Tensor = field(metadata=PER_TOKEN)


def with_rollouts(rollouts: Rollouts) -> Experience:
    return replace(make_experience(prompts=2, k=2), rollouts=rollouts)


def tool_rollouts(**changes) -> ToolRollouts:
    plain = make_rollouts(["w1", "w2 w3", "w4", "w5"], 2)
    own = {"messages": tuple([{"content": text}] for text in plain.texts), "tool_BT": plain.sampled_BT}
    return ToolRollouts(**vars(plain), **(own | changes))


def test_a_users_own_field_is_cut_by_row_and_joined_again():
    whole = tool_rollouts()
    groups = split(with_rollouts(whole))
    assert groups[1].rollouts.messages == ([{"content": "w4"}], [{"content": "w5"}])
    assert torch.equal(groups[1].rollouts.tool_BT, groups[1].rollouts.sampled_BT)
    assert_equal(join(groups).rollouts, whole)


def test_a_field_that_is_not_one_entry_a_row_is_refused():
    with pytest.raises(ValueError, match="messages has 3 entries for 4 rows"):
        split(with_rollouts(tool_rollouts(messages=([], [], []))))


def test_a_field_without_metadata_is_refused_and_not_copied():
    @dataclass(frozen=True, kw_only=True)
    class Unmarked(Rollouts):
        calls: tuple[str, ...]

    rollouts = Unmarked(**vars(make_rollouts(["w1", "w2", "w3", "w4"], 2)), calls=("a", "b", "c", "d"))
    with pytest.raises(TypeError, match="field calls does not say how it is cut"):
        split(with_rollouts(rollouts))
    with pytest.raises(TypeError, match="field calls does not say how it is cut"):
        join([rollouts])
