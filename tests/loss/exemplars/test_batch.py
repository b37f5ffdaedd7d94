import pytest
import torch

from dqo.errors import ConfigError, StageError
from dqo.learner.update.packing import Form, micro_batches
from dqo.loss.exemplars.batch import Exemplars, batch, correct_completions
from tests.factories import make_prompts, make_rewards, make_rollouts


def test_the_correct_and_valid_completions_of_each_prompt():
    rollouts = make_rollouts(["w1", "w2 w3", "w4", "w5"], 2)
    valid_PK = torch.tensor([[True, True], [False, True]])
    found = correct_completions(rollouts, make_rewards([[1.0, 1.0], [1.0, 0.0]], valid=valid_PK), key="x")
    assert found == [[(0, [4, 1]), (1, [5, 6, 1])], []]  # words are tokens 3 and up, the end token is 1


def test_a_reward_without_correctness_is_refused():
    rewards = make_rewards([[1.0, 1.0]])
    unknown = type(rewards)(**{**vars(rewards), "correct_PK": None})
    with pytest.raises(ConfigError, match=r"^loss\.terms\.replay: .*; type reward="):
        correct_completions(make_rollouts(["w1", "w2"], 2), unknown, key="loss.terms.replay")


def test_a_completion_with_tool_output_is_no_exemplar():
    rollouts = make_rollouts(["w1 w2", "w3 w4"], 2)
    rollouts.sampled_BT[1, 4] = False
    with pytest.raises(StageError, match="tool output"):
        correct_completions(rollouts, make_rewards([[1.0, 1.0]]), key="x")


def test_rows_that_fill_up_a_group_are_not_computed():
    first, second, third = make_prompts(3)
    supervised = batch(
        [
            Exemplars(prompt=first, completions=[[5, 1]], weights=[0.5]),
            Exemplars(prompt=second, completions=[], weights=[]),
            Exemplars(prompt=third, completions=[[6, 7, 1], [8]], weights=[0.25, 2.0]),
        ]
    )
    assert supervised is not None
    rollouts, weights_BT = supervised.rollouts, supervised.weights_BT
    assert rollouts.prompts == (first, third) and rollouts.k == 2
    assert [weights_BT[row][rollouts.sampled_BT[row]].tolist() for row in range(4)] == [
        [0.5] * 2,
        [],
        [0.25] * 3,
        [2.0],
    ]
    assert not weights_BT[~rollouts.sampled_BT].any()
    for form in (Form.SHARED, Form.PLAIN):
        computed = micro_batches(rollouts, range(4), budget=100, form=form)
        targets = sorted(token for each in computed for token in each.targets_N.tolist())
        assert targets == [1, 1, 5, 6, 7, 8]


def test_no_exemplars_are_no_record():
    assert batch([Exemplars(prompt=make_prompts(1)[0], completions=[], weights=[])]) is None
