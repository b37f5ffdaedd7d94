from dataclasses import replace

import pytest
import torch

from dqo.credit.distance import Distance, Metric
from dqo.credit.gating.gate import Gate, Gating, lowest_reward
from dqo.errors import ConfigError, StageError
from dqo.references import References
from tests.credit.groups import group, reference, unit_vectors

REWARDS = [[0.0, 0.5, 1.0, 1.0]]
VALID = [[True, True, True, False]]
NONE = References()


@pytest.mark.parametrize(
    ("gate", "threshold", "expected"),
    [
        (Gate.none, None, [True, True, True, False]),
        (Gate.correct, None, [False, True, True, False]),
        (Gate.threshold, 0.5, [False, True, True, False]),
        (Gate.threshold, 0.51, [False, False, True, False]),
        (Gate.threshold, -1.0, [True, True, True, False]),
    ],
)
def test_each_gate_passes_its_completions(gate, threshold, expected):
    rollouts, rewards = group(REWARDS, VALID)
    assert Gating(gate=gate, threshold=threshold).mask(rollouts, rewards, NONE).tolist() == [expected]


def test_only_gate_correct_needs_a_reward_that_says_what_is_correct():
    rollouts, rewards = group(REWARDS, VALID)
    rewards = replace(rewards, correct_PK=None)
    assert Gating(gate=Gate.none, threshold=None).mask(rollouts, rewards, NONE).tolist() == VALID
    assert Gating(gate=Gate.threshold, threshold=1.0).mask(rollouts, rewards, NONE).tolist() == [
        [False, False, True, False]
    ]
    with pytest.raises(ConfigError) as caught:
        Gating(gate=Gate.correct, threshold=None).mask(rollouts, rewards, NONE)
    assert str(caught.value) == (
        "credit.gate=correct: this reward does not say which completions are correct; "
        "type credit.gate=threshold credit.threshold=0.5, or credit.gate=none"
    )


@pytest.mark.parametrize(
    ("gate", "threshold", "message"),
    [
        (Gate.threshold, None, r"credit\.threshold=null: .* type credit\.threshold=0\.5"),
        (Gate.none, 0.5, r"credit\.threshold=0\.5: .* type credit\.gate=threshold, or credit\.threshold=null"),
    ],
)
def test_a_threshold_and_its_gate_come_together(gate, threshold, message):
    with pytest.raises(ConfigError, match=message):
        Gating(gate=gate, threshold=threshold)


@pytest.mark.parametrize(
    ("totals", "margin", "lowest"),
    [
        ([0.0, 1.0, 1.0, 1.0], 0.5, 0.125),  # 0 + 0.5 (1 - 0.75)
        ([0.0, 1.0, 1.0, 1.0], 0.0, 0.0),
        ([-2.0, -1.0], 1.0, -1.5),  # -2 + 1 (-1 + 1.5)
        ([1.0, 1.0, 1.0], 0.5, 1.0),
        ([0.0, 0.0], 0.5, 0.0),  # nothing is right: wrong ones pass, too
    ],
)
def test_the_bar_of_gate_reference_is_min_plus_margin_times_max_minus_mean(totals, margin, lowest):
    prompt = group([[0.0]])[0].prompts[0]
    assert lowest_reward(reference(prompt, totals), len(totals), margin) == pytest.approx(lowest)


def test_only_valid_ones_of_the_first_samples_count_and_without_any_nothing_passes():
    prompt = group([[0.0]])[0].prompts[0]
    valid = [True, False, True, True]
    assert lowest_reward(reference(prompt, [0.5, -9.0, 1.0, -9.0], valid=valid), 3, 1.0) == pytest.approx(0.75)
    assert lowest_reward(reference(prompt, [0.5, 1.0], valid=[False, False]), 2, 1.0) == float("inf")


def test_gate_reference_compares_each_prompt_with_its_own_samples():
    rollouts, rewards = group(
        [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0], [0.0, 0.5, 1.0]], [[True, True, False]] + [[True] * 3] * 2
    )
    gating = Gating(gate=Gate.reference, threshold=None, reference_samples=2, reference_margin=0.5)
    references = References()
    credit = Distance(references, metric=Metric.cosine, gating=gating)
    assert references.count == 2 and not references.embedded
    with pytest.raises(StageError, match=r"\[references, prompts 10\] there are no reference samples of this prompt"):
        credit.earning_mask(rollouts, rewards)
    given = ([0.0, 0.4], [1.0, 1.0], [0.0, 0.0])
    pairs = zip(rollouts.prompts, given, strict=True)
    references.add({prompt.tokens: reference(prompt, totals) for prompt, totals in pairs})
    passes_PK = credit.earning_mask(rollouts, rewards)
    assert passes_PK.tolist() == [[False, True, False], [False, False, True], [True, True, True]]
    credits_PK = credit.assign(rollouts, rewards, unit_vectors(3, 3, 8))
    assert torch.equal(credits_PK != 0, torch.tensor([[False] * 3, [False] * 3, [True] * 3]))
    assert credit.description.endswith(", among completions with a reward as good as the initial policy's")
