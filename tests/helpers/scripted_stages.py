"""Stages of an evaluation whose completions are given: rewards, embeddings and keys follow from the texts alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from dqo.records import Estimates, Prompt, Rewards
from dqo.stages import Stages, Verdict
from tests.factories import make_prompts, make_rollouts
from tests.learner.builders import clip

CITIES = {"Paris": 0, "paris": 0, "Lima": 1, "Oslo": 2}


class ScriptedTask:
    """Answers are correct if they are cities; keys ignore the case."""

    def draw(self, cursor: int, count: int):
        raise AssertionError("an evaluation draws no training prompts")

    def held_out(self):
        return []

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        return Verdict(reward=float(text in CITIES), correct=text in CITIES)

    def key(self, prompt: Prompt, text: str) -> str:
        return text.casefold()


class ScriptedRollout:
    """Completes the prompt at a position with the first k of its texts; the groups come in reverse order. The text
    "cut" is truncated."""

    def __init__(self, texts: Mapping[int, Sequence[str]]):
        self.texts = texts

    def generate(self, prompts, *, k: int, seed: int):
        for prompt in reversed(prompts):
            texts = self.texts[prompt.position][:k]
            yield make_rollouts(texts, k, prompts=[prompt], finished=[text != "cut" for text in texts])

    def load_weights(self, weights, *, version: int) -> None:
        raise AssertionError("an evaluation loads no weights")

    def pause(self) -> None: ...


class CityReward:
    """1 for a city, 0 for any other text; the text "broken" is invalid."""

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
    """An axis for each city, and one axis for all other texts."""

    def encode(self, rollouts):
        numbers = torch.tensor([CITIES.get(text, 3) for text in rollouts.texts])
        return torch.nn.functional.one_hot(numbers, 4).float().view(-1, rollouts.k, 4)


class NoCredit:
    """Fails if it is used."""

    uses_embeddings = False

    def assign(self, rollouts, rewards, embeddings_PKD):
        raise AssertionError("an evaluation assigns no credit")


class NoAdvantage:
    """Fails if it is used."""

    def __call__(self, experience, estimates, *, alpha: float):
        raise AssertionError("an evaluation trains nothing")

    def has_signal(self, experience, *, alpha: float) -> bool:
        return True


class NoLearner:
    """Fails if it is trained."""

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
    """The stages, and prompts for them. ``texts``: the completions of each prompt, by position."""
    stages = Stages(
        task=ScriptedTask(), rollout=ScriptedRollout(texts), reward=CityReward(knows_correct), embed=OneHotEmbed(),
        credit=NoCredit(), advantage=NoAdvantage(), loss=clip(), learner=NoLearner(),
    )  # fmt: skip
    return stages, make_prompts(len(texts))
