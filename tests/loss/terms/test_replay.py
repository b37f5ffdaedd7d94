import json
from dataclasses import replace
from operator import itemgetter

import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.terms.replay import Replay
from dqo.records import Experience
from tests.factories import make_prompts, make_rewards, make_rollouts
from tests.helpers.on_ranks import on_ranks
from tests.helpers.toy_stages import CountingTask

K = 4


class FirstWordTask(CountingTask):
    def key(self, prompt, text):
        return text.split()[0]


def replay(*, per_prompt=16):
    return Replay(FirstWordTask(), coefficient=0.1, per_prompt=per_prompt, k=K)


def experience(texts, correct, *, prompts=None, valid=None):
    rollouts = make_rollouts(texts, K, prompts=prompts)
    rewards = make_rewards(torch.tensor(correct, dtype=torch.float).view(-1, K), valid=valid)
    return Experience(
        rollouts=rollouts, rewards=rewards, embeddings_PKD=None, credits_PK=torch.zeros(len(texts) // K, K)
    )


def exemplars(supervised):
    """The tokens of each prompt's exemplars."""
    rollouts, found = supervised.rollouts, {}
    for row, sampled_T in enumerate(rollouts.sampled_BT):
        if sampled_T.any():
            prompt = rollouts.prompts[row // rollouts.k]
            found.setdefault(prompt.position, []).append(rollouts.tokens_BT[row][sampled_T].tolist())
    return found


def test_the_loss_is_the_mean_over_modes_of_the_mean_log_probability():
    texts = ["w1 w9", "w1 w8", "w2", "w3", "w4", "w5", "w6 w6 w6", "w7"]
    right = [1, 1, 1, 0, 0, 0, 1, 0]
    supervised = replay().supervised(experience(texts, right))
    assert supervised is not None
    assert exemplars(supervised) == {0: [[4, 12, 1], [5, 1]], 1: [[9, 9, 9, 1]]}
    logprobs_BT = torch.randn(supervised.weights_BT.shape, generator=torch.Generator().manual_seed(0))
    sampled_BT, expected = supervised.rollouts.sampled_BT, 0.0
    for rows in ([0, 1], [2, 3]):  # of each prompt
        means = [logprobs_BT[row][sampled_BT[row]].mean() for row in rows if sampled_BT[row].any()]
        expected += -torch.stack(means).mean() / 2
    expected *= 0.1 * (K - 1) / K**2
    torch.testing.assert_close(-(supervised.weights_BT * logprobs_BT).sum(), expected)


def test_a_mode_that_is_found_no_more_is_replayed():
    term = replay()
    term.supervised(experience(["w1 w9", "w2", "w3", "w4"], [1, 1, 0, 0]))
    later = term.supervised(experience(["w1 w7", "w1", "w1", "w3"], [1, 1, 1, 1]))
    assert exemplars(later) == {0: [[4, 12, 1], [5, 1], [6, 1]]}  # of w1 the first that was found
    nothing = term.supervised(experience(["w1"] * 4, [0] * 4))
    assert exemplars(nothing) == {0: [[4, 12, 1], [5, 1], [6, 1]]}


def test_more_modes_than_a_step_replays_take_turns():
    term, right = replay(per_prompt=3), [1] * 4
    first = term.supervised(experience(["w1", "w2", "w3", "w4"], right))
    assert exemplars(first) == {0: [[4, 1], [5, 1], [6, 1]]}
    assert [exemplars(term.supervised(experience(["w1"] * 4, right)))[0] for _ in range(3)] == [
        [[7, 1], [4, 1], [5, 1]],
        [[6, 1], [7, 1], [4, 1]],
        [[5, 1], [6, 1], [7, 1]],
    ]


def test_wrong_and_invalid_completions_are_no_exemplars():
    valid = torch.tensor([[False, True, True, True]])
    term = replay()
    assert term.supervised(experience(["w1", "w2", "w3", "w4"], [1, 0, 0, 0], valid=valid)) is None
    assert term.buffer == {}


def test_only_the_prompts_own_exemplars_are_replayed():
    term, (one, other) = replay(), make_prompts(2)
    term.supervised(experience(["w1", "w2", "w3", "w4"], [1] * 4, prompts=[one]))
    assert term.supervised(experience(["w5"] * 4, [0] * 4, prompts=[other])) is None
    again = replace(one, position=7)  # the stream comes round
    assert exemplars(term.supervised(experience(["w5"] * 4, [0] * 4, prompts=[again])))[7] == [
        [4, 1],
        [5, 1],
        [6, 1],
        [7, 1],
    ]


def test_a_checkpoint_continues_the_turns():
    term, other, right = replay(per_prompt=1), replay(per_prompt=1), [1] * 4
    term.supervised(experience(["w1", "w2", "w3", "w3"], right))
    other.load_state_dict(json.loads(json.dumps(term.state_dict())))
    for _ in range(4):
        step = experience(["w1", "w4", "w4", "w4"], right)
        assert exemplars(other.supervised(step)) == exemplars(term.supervised(step))
    assert other.buffer == term.buffer


def test_several_ranks_share_the_modes_and_the_loss(tmp_path):
    one, other = make_prompts(2)
    steps = [
        {0: (one, ["w1", "w2"], [1, 1]), 1: (other, ["w3", "w4"], [1, 0])},
        {0: (other, ["w3", "w5"], [1, 1]), 1: (one, ["w6", "w6"], [0, 0])},  # each draws the other's prompt
    ]

    def run(rank):
        term = replay()
        groups = [
            experience(texts * 2, right * 2, prompts=[prompt]) for prompt, texts, right in map(itemgetter(rank), steps)
        ]
        *_, last = map(term.supervised, groups)
        assert last is not None
        return exemplars(last), last.weights_BT.sum().item(), term.state_dict()

    (first, weight, state), (second, other_weight, other_state) = on_ranks(2, tmp_path, run)
    assert state == other_state
    assert first == {other.position: [[6, 1], [8, 1]]} and second == {one.position: [[4, 1], [5, 1]]}
    assert weight == other_weight == pytest.approx(0.1 * (K - 1) / K**2 / 2)  # each prompt has half of it


def test_one_completion_a_prompt_is_refused():
    with pytest.raises(ConfigError, match=r"^k=1: .*type k=8"):
        Replay(CountingTask(), coefficient=0.1, per_prompt=16, k=1)
