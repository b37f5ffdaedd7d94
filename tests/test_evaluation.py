import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from dqo.evaluation import evaluate
from dqo.records import Estimates, Prompt, Rewards
from dqo.stages import Stages, Verdict
from tests.factories import make_prompts, make_rollouts

CITIES = {"Paris": 0, "paris": 0, "Lima": 1, "Oslo": 2}


class ScriptedTask:
    def draw(self, cursor: int, count: int):
        raise AssertionError("an evaluation draws nothing")

    def held_out(self):
        return []

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        return Verdict(reward=float(text in CITIES), correct=text in CITIES)

    def key(self, prompt: Prompt, text: str) -> str:
        return text.casefold()


class ScriptedRollout:
    """Gives each position the first k of its texts; groups come one by one, the last prompt's first."""

    def __init__(self, texts: Mapping[int, Sequence[str]]):
        self.texts = texts

    def generate(self, prompts, *, k: int, seed: int):
        for prompt in reversed(prompts):
            texts = self.texts[prompt.position][:k]
            yield make_rollouts(texts, k, prompts=[prompt], finished=[text != "cut" for text in texts])

    def load_weights(self, weights, *, version: int) -> None:
        raise AssertionError("an evaluation syncs nothing")

    def pause(self) -> None: ...


class CityReward:
    """1 for a city, 0 for another text; "broken" is invalid."""

    def __init__(self, knows_correct: bool = True):
        self.knows_correct = knows_correct

    def score(self, rollouts) -> Rewards:
        total_PK = torch.tensor([float(text in CITIES) for text in rollouts.texts]).view(-1, rollouts.k)
        valid_PK = torch.tensor([text != "broken" for text in rollouts.texts]).view(-1, rollouts.k)
        return Rewards(
            total_PK=total_PK,
            parts={"city": total_PK},
            correct_PK=total_PK > 0 if self.knows_correct else None,
            valid_PK=valid_PK,
        )


class OneHotEmbed:
    """Each city an axis, all other texts one more."""

    def encode(self, rollouts):
        numbers = torch.tensor([CITIES.get(text, 3) for text in rollouts.texts])
        return torch.nn.functional.one_hot(numbers, 4).float().view(-1, rollouts.k, 4)


class NoCredit:
    uses_embeddings = False

    def assign(self, rollouts, rewards, embeddings_PKD):
        raise AssertionError("an evaluation credits nothing")


class NoAdvantage:
    def __call__(self, experience, estimates, *, alpha: float):
        raise AssertionError("an evaluation trains nothing")

    def has_signal(self, experience, *, alpha: float) -> bool:
        return True


class NoLearner:
    def estimate(self, rollouts):
        return Estimates()

    def update(self, experience, estimates, targets):
        raise AssertionError("an evaluation trains nothing")

    def weights(self):
        return iter(())

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


def scripted_stages(
    texts: Mapping[int, Sequence[str]], *, knows_correct: bool = True
) -> tuple[Stages, tuple[Prompt, ...]]:
    stages = Stages(
        task=ScriptedTask(), rollout=ScriptedRollout(texts), reward=CityReward(knows_correct), embed=OneHotEmbed(),
        credit=NoCredit(), advantage=NoAdvantage(), learner=NoLearner(),
    )  # fmt: skip
    return stages, make_prompts(len(texts))


def test_every_number_by_hand():
    stages, prompts = scripted_stages({0: ["Paris", "paris", "Lima", "cut"], 1: ["Oslo", "broken", "so so", "so so"]})
    metrics = evaluate(stages, prompts, n=4, seed=0).metrics
    expected = {
        "reward": (3 / 4 + 1 / 3) / 2,
        "reward_best": 1.0,
        "pass@1": (3 / 4 + 1 / 4) / 2,
        "pass@2": (1.0 + 1 / 2) / 2,  # of 6 pairs: all but none; three hold Oslo
        "pass@4": 1.0,
        "distinct_correct": (2 + 1) / 2,
        "distinct_correct@4": (2 + 1) / 2,
        "cosine_distance": (5 / 6 + 2 / 3) / 2,  # pairs of different axes: all but one, and Oslo's two
        "cosine_distance/correct": 2 / 3,  # of the first prompt; the second has one correct answer
        "compared/correct": 0.5,
        "logdet": (math.log(3 * 2 * 2) + math.log(2 * 3)) / 2,
        "logdet/correct": (math.log(3 * 2) + math.log(2)) / 2,
        "vendi/correct": (math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3)) + 1) / 2,
        "distinct_1": (3 / 4 + 2 / 5) / 2,  # paris lima cut · oslo so; what is broken takes part in nothing
        "distinct_1/correct": 2 / 3,
        "distinct_2": 1 / 2,  # so so, twice; the first prompt's answers have one word
        "valid": (1 + 3 / 4) / 2,
        "finished": (3 / 4 + 1) / 2,
        "mean_length": (7 / 4 + 10 / 4) / 2,  # words and ends
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert math.isnan(metrics["distinct_4"])


def test_ten_of_more_samples_is_an_expectation():
    stages, prompts = scripted_stages({0: ["Paris"] * 19 + ["Lima"]})
    metrics = evaluate(stages, prompts, n=20, seed=0).metrics
    assert metrics["pass@10"] == 1.0
    assert metrics["distinct_correct"] == pytest.approx(1.5)  # half of the tens hold the one Lima
    assert metrics["distinct_correct@20"] == 2.0
    assert {key for key in metrics if key.startswith("pass@")} == {"pass@1", "pass@2", "pass@5", "pass@10", "pass@20"}


def test_answers_are_kept_by_position():
    stages, prompts = scripted_stages({0: ["Paris", "broken"], 1: ["paris", "Oslo"]})
    first, second = evaluate(stages, prompts, n=2, seed=0).answers
    assert (first.prompt, first.texts, first.keys, first.correct) == (
        prompts[0], ("Paris", "broken"), ("paris", "broken"), (True, False),
    )  # fmt: skip
    assert first.rewards[0] == 1.0
    assert math.isnan(first.rewards[1])
    assert second.texts == ("paris", "Oslo")


def test_without_a_notion_of_correct_the_keys_stay():
    texts = {0: ["Paris", "Lima"]}
    known = evaluate(*scripted_stages(texts), n=2, seed=0).metrics
    unknown = evaluate(*scripted_stages(texts, knows_correct=False), n=2, seed=0)
    assert unknown.metrics.keys() == known.keys()
    assert unknown.answers[0].correct is None
    undefined = {key for key, value in unknown.metrics.items() if math.isnan(value)}
    assert {"pass@1", "distinct_correct", "logdet/correct", "compared/correct"} <= undefined
    assert unknown.metrics["cosine_distance"] == 1.0


def test_no_prompts_are_refused():
    stages, _ = scripted_stages({0: ["Paris"]})
    with pytest.raises(ValueError, match="no prompts"):
        evaluate(stages, [], n=2, seed=0)
