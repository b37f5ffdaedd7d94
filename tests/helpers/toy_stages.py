"""Toy stages for the loop, and a plan for them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from dqo.errors import ConfigError
from dqo.loop import Plan
from dqo.records import Estimates, Experience, Prompt, Rewards, Targets
from dqo.stages import Stages, Verdict
from tests.factories import WORDS, make_prompts, make_rollouts
from tests.learner.builders import clip

PLAN = Plan(steps=4, prompts=3, k=4, alpha=1.0, seed=0)


class CountingTask:
    """The prompt at position n is the nth word."""

    def draw(self, cursor: int, count: int):
        return [self._prompt(n) for n in range(cursor, cursor + count)], cursor + count

    def held_out(self):
        return [self._prompt(0)]

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        return Verdict(reward=0.0, correct=False)

    def key(self, prompt: Prompt, text: str) -> str:
        return text

    @staticmethod
    def _prompt(n: int) -> Prompt:
        return Prompt(position=n, tokens=(3 + n % 60,), content=WORDS[n % 60], columns={})


class TextTask(CountingTask):
    """Two held-out prompts; any text but "empty" is a prompt, and its column ``text``."""

    def held_out(self):
        return make_prompts(2)

    def prompt_of(self, text: str, *, position: int, source: str) -> Prompt:
        if text == "empty":
            raise ConfigError(f"{source}: the prompt is empty; type a text")
        return make_prompts(1, text=text)[0]


class ShuffledRollout:
    """Finishes groups one by one in a random order, which differs from run to run; the texts depend only on seed and
    position."""

    def __init__(self, log: list[str]):
        self.version, self.log = 0, log

    def generate(self, prompts, *, k: int, seed: int):
        for index in torch.randperm(len(prompts)).tolist():
            prompt = prompts[index]
            generator = torch.Generator().manual_seed(seed * 1000 + prompt.position)
            texts = [WORDS[int(torch.randint(60, (), generator=generator))] for _ in range(k)]
            group = make_rollouts(texts, k, prompts=[prompt])
            yield replace(group, versions_B=torch.full_like(group.versions_B, self.version))
        self.log.append(f"sampled {min(p.position for p in prompts)} at {self.version}")

    def load_weights(self, weights, *, version: int) -> None:
        for _ in weights:
            pass
        self.version = version
        self.log.append(f"weights {version}")

    def pause(self) -> None:
        self.log.append("pause")


class EvenReward:
    """1 where the sampled word's number is even."""

    def score(self, rollouts) -> Rewards:
        total_PK = torch.tensor([float(int(text[1:]) % 2 == 0) for text in rollouts.texts]).view(-1, rollouts.k)
        return Rewards(
            total_PK=total_PK,
            parts={"even": total_PK},
            correct_PK=total_PK > 0,
            valid_PK=torch.ones_like(total_PK, dtype=torch.bool),
        )


class OneHotEmbed:
    """An axis for each word."""

    def encode(self, rollouts):
        numbers = torch.tensor([int(text[1:]) for text in rollouts.texts])
        return torch.nn.functional.one_hot(numbers, 60).float().view(-1, rollouts.k, 60)


class RareCredit:
    """1 / number of equal completions in the group."""

    uses_embeddings = True

    def assign(self, rollouts, rewards, embeddings_PKD):
        return 1.0 / (embeddings_PKD @ embeddings_PKD.mT).sum(-1)


class SumAdvantage:
    """reward + alpha * credit."""

    def __call__(self, experience: Experience, estimates: Estimates, *, alpha: float) -> Targets:
        scores_PK = experience.rewards.total_PK + alpha * experience.credits_PK
        return Targets(advantages_BT=scores_PK.view(-1, 1) * experience.rollouts.sampled_BT)

    def has_signal(self, experience: Experience, *, alpha: float) -> bool:
        return bool((experience.rewards.total_PK + alpha * experience.credits_PK).std() > 0)


class SummingLearner:
    """A learner whose one weight is the sum of all advantages so far."""

    def __init__(self):
        self.weight = torch.zeros(())

    def estimate(self, rollouts) -> Estimates:
        return Estimates()

    def update(self, experience, estimates, targets) -> Mapping[str, float]:
        self.weight = self.weight + targets.advantages_BT.sum()
        return {"weight": float(self.weight)}

    def weights(self):
        yield "weight", self.weight

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...


def toy_stages(log: list[str] | None = None) -> Stages:
    """The toy stages as a pipeline; the rollout appends its calls to ``log``."""
    return Stages(
        task=CountingTask(), rollout=ShuffledRollout([] if log is None else log), reward=EvenReward(),
        embed=OneHotEmbed(), credit=RareCredit(), advantage=SumAdvantage(), loss=clip(), learner=SummingLearner(),
    )  # fmt: skip
