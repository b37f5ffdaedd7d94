"""A task with fixed prompts for the tests of rewards, and completions of two prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from tests.factories import make_rollouts


@dataclass(frozen=True, kw_only=True)
class FixedPrompts:
    """Its check compares a finished completion with the column ``answer``; without that column it has no check."""

    prompts: tuple[Prompt, ...]

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        return [self.prompts[i % len(self.prompts)] for i in range(cursor, cursor + count)], cursor + count

    def held_out(self) -> Sequence[Prompt]:
        return self.prompts

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        if "answer" not in prompt.columns:
            raise ConfigError("task=fixed has no check of its own; type reward=python")
        right = text == prompt.columns["answer"]
        return Verdict(reward=0.5 * right + 0.25 * finished, correct=right and finished)

    def key(self, prompt: Prompt, text: str) -> str:
        return text


def prompt(position: int, content: Any = "say w1", **columns) -> Prompt:
    return Prompt(position=position, tokens=(3, 4, 5 + position), content=content, columns=columns)


PROMPTS = (prompt(3, answer="w1", id=7), prompt(4, answer="w2", id=8))
CHATS = (prompt(3, ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}), answer="w1"),)
TEXTS = ["w1", "w1 w5", "w2", "w2", "w3", "w1 w2 w3"]
ROLLOUTS = make_rollouts(TEXTS, 3, prompts=PROMPTS, finished=[True, False, True, True, True, True])
