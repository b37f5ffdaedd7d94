import math
from dataclasses import replace

import pytest
import torch

from dqo.config.schema import SampleConfig
from dqo.credit.dpp import Quality
from dqo.credit.gating.gate import Gate
from dqo.credit.none import NoCredit
from dqo.run.sampling.judging import sampled_group
from tests.credit.builders import dpp
from tests.factories import make_prompts
from tests.helpers.composing import composed_sample
from tests.helpers.scripted_stages import ScriptedTask, scripted_stages

TEXTS = ("Paris", "Lima", "broken", "cut", "", "x")


class RowsTask(ScriptedTask):
    """Its prompts have a column, which its reward may need."""

    def held_out(self):
        return [*make_prompts(2, answer="Paris")]


def group(*overrides: str, credit=None, texts=TEXTS, prompt=None, number=0, knows_correct=True):
    stages, prompts = scripted_stages({number: texts}, knows_correct=knows_correct)
    stages = replace(stages, task=RowsTask(), credit=credit or dpp())
    config: SampleConfig = composed_sample(f"k={len(texts)}", *overrides)
    prompt = prompt or replace(prompts[0], columns={"answer": "Paris"})
    return sampled_group(stages, config, prompt, number=number)


def test_completions_are_judged_as_in_training():
    judged = group("alpha=1.0")
    assert judged.completions == TEXTS
    assert [value if value == value else None for value in judged.rewards] == [1, 1, None, 0, 0, 0]
    assert judged.correct == (True, True, None, False, False, False)
    assert judged.finished == (True, True, True, False, True, True)
    assert judged.credits is not None and math.isnan(judged.credits[2])
    assert judged.credits[4] == 0.0, "an empty completion earns nothing"
    assert judged.credits[0] == pytest.approx(math.log(2)), "unlike all others"
    assert judged.cosines[0][1] == 0.0 and judged.cosines[3][5] == 1.0 and math.isnan(judged.cosines[4][0])
    assert judged.notes[0].startswith("6 completions, 6 different answers, mean reward 0.400, mean cosine distance")
    assert "in training it counts alpha=1 times" in judged.notes[1]


def test_a_prompt_without_the_columns_of_the_task_gets_dashes_and_no_zeros():
    judged = group("choose=2", prompt=make_prompts(1)[0])
    assert all(map(math.isnan, judged.rewards)) and judged.correct == (None,) * 6
    assert judged.notes[1] == "reward –: this task judges a completion by the answer of its own prompts"
    assert judged.credits is not None and judged.credits[0] == pytest.approx(math.log(2)), "it needs no reward"
    assert judged.chosen == (0, 1) and "q = 1" in judged.notes[-1]


@pytest.mark.parametrize("credit", [dpp(gate=Gate.correct), dpp(quality=Quality.reward)], ids=["gate", "quality"])
def test_a_credit_that_depends_on_missing_rewards_is_missing_too(credit):
    judged = group(credit=credit, prompt=make_prompts(1)[0])
    assert judged.credits is not None and all(map(math.isnan, judged.credits))
    assert "credit –: it depends on the reward" in judged.notes


def test_a_run_without_credit_shows_none():
    assert group(credit=NoCredit()).credits is None


def test_invalid_and_empty_completions_are_not_chosen():
    judged = group("choose=6")
    assert judged.chosen is not None and {2, 4}.isdisjoint(judged.chosen)
    assert "3, not 6: the others repeat them, are not judged, or weigh" in judged.notes[-1]


def test_alpha_0_is_replaced_in_the_choice_and_said():
    assert "; alpha=1 in place of 0" in group("choose=2", "alpha=0").notes[-1]


def test_a_reward_that_defines_no_correctness():
    assert group(knows_correct=False).correct == (None,) * 6


def test_one_completion_and_nothing_but_empty_ones():
    assert group(texts=("Paris",)).cosines == ((1.0,),)
    judged = group("choose=1", texts=("", " "))
    assert judged.chosen == () and torch.tensor(judged.cosines).isnan().all()


def test_a_credit_that_compares_with_the_initial_policy_is_missing_outside_a_run():
    judged = group(credit=dpp(gate=Gate.reference))
    assert judged.credits is not None and all(map(math.isnan, judged.credits))
    assert judged.notes[1] == (
        "credit –: it compares with completions of the initial policy, which only a training run samples"
    )


def test_of_a_credit_that_pays_tokens_the_mean_over_a_completion_is_shown():
    class FirstToken(NoCredit):
        """3 at the first sampled token."""

        pays_nothing = False

        def assign_tokens(self, rollouts, rewards):
            return 3.0 * (rollouts.sampled_BT & (rollouts.sampled_BT.cumsum(1) == 1))

    judged = group(credit=FirstToken(), texts=("w1 w2", "w1", ""))
    assert judged.credits == pytest.approx((1.0, 1.5, 0.0))  # the end token is sampled, too
