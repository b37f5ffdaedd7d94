import math
from dataclasses import replace

import pytest
import torch

from dqo.errors import ConfigError, StageError
from dqo.reward.check import Check
from dqo.stages import Reward, Verdict
from tests.factories import make_rollouts
from tests.reward.tasks import FixedPrompts, prompt

PROMPTS = (prompt(3, answer="w1"), prompt(4, answer="w2"))
ROLLOUTS = make_rollouts(
    ["w1", "w1", "w2", "w2", "w2", "w1"], 3, prompts=PROMPTS, finished=[True, False, True, True, False, True]
)


def test_verdicts_of_each_prompt():
    reward = Check(FixedPrompts(prompts=PROMPTS), mask_truncated_completions=False)
    assert isinstance(reward, Reward)
    rewards = reward.score(ROLLOUTS)
    assert rewards.total_PK.tolist() == [[0.75, 0.5, 0.25], [0.75, 0.5, 0.25]]
    assert rewards.parts["check"].tolist() == rewards.total_PK.tolist()
    assert rewards.correct_PK is not None
    assert rewards.correct_PK.tolist() == [[True, False, False], [True, False, False]]
    assert rewards.valid_PK.all()


def test_truncated_completions_are_masked():
    rewards = Check(FixedPrompts(prompts=PROMPTS), mask_truncated_completions=True).score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, False, True], [True, False, True]]
    assert rewards.total_PK.tolist() == [[0.75, 0.0, 0.25], [0.75, 0.0, 0.25]]
    assert torch.equal(ROLLOUTS.finished_B.view(2, 3), rewards.valid_PK)
    assert torch.equal(rewards.parts["check"].isnan(), ~rewards.valid_PK)  # NaN: the check was not called


def test_the_words_that_the_model_goes_on_with_are_a_part_of_the_answer():
    messages = ({"role": "user", "content": "say w1 w2"}, {"role": "assistant", "content": "w1 "})
    rollouts = make_rollouts(["w2", "w1"], 2, prompts=(prompt(0, messages, answer="w1 w2"),))
    rewards = Check(FixedPrompts(prompts=rollouts.prompts), mask_truncated_completions=False).score(rollouts)
    assert rewards.total_PK.tolist() == [[0.75, 0.25]]


def test_a_task_without_a_check_is_refused_at_construction():
    with pytest.raises(ConfigError, match="reward=python"):
        Check(FixedPrompts(prompts=(prompt(0),)), mask_truncated_completions=False)


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e39])
def test_a_verdict_that_is_not_finite_names_the_prompt(number):
    class Broken(FixedPrompts):
        def check(self, prompt, text, finished):
            return replace(Verdict(reward=0.0, correct=False), reward=number if prompt.position == 4 else 1.0)

    with pytest.raises(StageError, match=r"returned (nan|inf|1e\+39)") as caught:
        Check(Broken(prompts=PROMPTS), mask_truncated_completions=False).score(ROLLOUTS)
    assert caught.value.positions == (4,)
