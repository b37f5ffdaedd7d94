from dataclasses import replace

import pytest
import torch

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.batching import split
from dqo.redrawing import Draws
from tests.advantage.experiences import experience_of
from tests.helpers.on_ranks import on_ranks

FLAT, SMALL, LARGE = [1.0, 1, 1], [0.5, 0.5, 0.625], [0, 1.0, 0]


def groups(*rewards, credits=None):
    credits = [[0.0] * 3] * len(rewards) if credits is None else credits
    return split(experience_of(list(rewards), credits))


def draws(prompts: int, *, redraws: int = 3, signal: float = 0.0, alpha: float = 1.0) -> Draws:
    return Draws(
        advantage=Joint(scale_rewards=ScaleRewards.none), alpha=alpha, prompts=prompts, redraws=redraws, signal=signal
    )


def rewards_of(drawn: Draws):
    return drawn.experience().rewards.total_PK.tolist()


def test_any_difference_is_a_signal_by_default():
    drawn = draws(3)
    assert drawn.missing() == 3
    drawn.add(groups(FLAT, SMALL, LARGE))
    assert drawn.missing() == 1
    drawn.add(groups(LARGE))
    assert drawn.missing() == 0
    assert rewards_of(drawn) == [SMALL, LARGE, LARGE]
    assert drawn.numbers() == {"redraws/rounds": 1.0, "redraws/dropped": 1.0, "redraws/filled": 0.0}


def test_a_signal_may_have_to_be_a_share_of_the_scores_standard_deviation():
    """That of the first draw, 0.41: two fifths of it are more than SMALL's 0.125, a quarter is less."""
    first = torch.tensor([FLAT, SMALL, LARGE])
    assert float(first.std()) == pytest.approx(0.415, abs=0.001)
    for signal, missing in ((0.4, 2), (0.25, 1)):
        drawn = draws(3, signal=signal)
        drawn.add(groups(FLAT, SMALL, LARGE))
        assert drawn.missing() == missing


def test_later_draws_are_measured_by_the_first_ones_scale():
    drawn = draws(2, signal=0.4)
    drawn.add(groups(FLAT, LARGE))
    drawn.add(groups([0.0, 50.0, 100.0], SMALL))  # whose own standard deviation is 100 times larger
    assert rewards_of(drawn) == [LARGE, [0.0, 50.0, 100.0]]


def test_credits_count_with_their_weight():
    """Equal rewards, a credit that differs by 0.1: without a share every such group has a signal."""
    pair = groups(FLAT, LARGE, credits=[[0.1, 0.2, 0.1]] * 2)
    for alpha, signal, kept in ((1.0, 0.0, 2), (1.0, 0.5, 1), (8.0, 0.5, 2), (0.0, 0.0, 1)):
        drawn = draws(2, signal=signal, alpha=alpha)
        drawn.add(pair)
        assert drawn.missing() == 2 - kept, (alpha, signal)


def test_credits_of_tokens_count_too():
    tied, other = groups(FLAT, LARGE)
    paid_BT = torch.zeros_like(tied.rollouts.logprobs_BT)
    paid_BT[0] = tied.rollouts.sampled_BT[0] * 0.1
    tied = replace(tied, token_credits_BT=paid_BT)
    other = replace(other, token_credits_BT=torch.zeros_like(other.rollouts.logprobs_BT))
    for signal, missing in ((0.0, 0), (0.5, 1)):
        drawn = draws(2, signal=signal)
        drawn.add([tied, other])
        assert drawn.missing() == missing


def test_after_the_last_round_the_step_is_filled_up_and_the_filling_is_counted():
    drawn = draws(3, redraws=1)
    drawn.add(groups(FLAT, LARGE, FLAT))
    assert drawn.missing() == 2
    drawn.add(groups(FLAT, FLAT))
    assert drawn.missing() == 0
    assert rewards_of(drawn) == [LARGE, FLAT, FLAT]
    assert drawn.numbers() == {"redraws/rounds": 1.0, "redraws/dropped": 2.0, "redraws/filled": 2.0}


def test_without_redraws_everything_is_kept_and_nothing_is_counted():
    drawn = draws(2, redraws=0)
    drawn.add(groups(FLAT, LARGE))
    assert drawn.missing() == 0
    assert rewards_of(drawn) == [FLAT, LARGE]
    assert drawn.numbers() == {}


def test_ranks_draw_alike_and_count_together(tmp_path):
    """Rank 0 lacks one group, rank 1 two: both draw two. The scale is that of both ranks' first draws."""
    first = {0: (LARGE, SMALL), 1: (FLAT, FLAT)}
    second = {0: (LARGE, LARGE), 1: (LARGE, FLAT)}

    def on_one(rank: int):
        drawn = draws(2, redraws=1, signal=0.4)
        asked = [drawn.missing()]
        drawn.add(groups(*first[rank]))
        asked.append(drawn.missing())
        drawn.add(groups(*second[rank]))
        return [*asked, drawn.missing()], rewards_of(drawn), drawn.numbers()

    (asked, rewards, numbers), (same, others, counted) = on_ranks(2, tmp_path, on_one)
    assert asked == same == [2, 2, 0]
    assert rewards == [LARGE, LARGE]
    assert others == [LARGE, FLAT]
    assert numbers == counted == {"redraws/rounds": 1.0, "redraws/dropped": 3.0, "redraws/filled": 1.0}
