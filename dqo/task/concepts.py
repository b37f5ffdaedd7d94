"""``task=concepts``: a toy task for ablations that take minutes (with ``model=tiny``).

Three concept words → one sentence that uses them: "dog ball park :" → "in the park , a shy dog hid the ball ." A small
grammar judges the answers; every prompt has thousands of right answers.
"""

import random
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.ranges import CompletionLength, Seed
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.grammar import DETERMINER, Grammar
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering

RESERVED = 500  # held-out prompts, the same for every seed: a warm start may have used another seed


class Concepts(RowTask):
    """Reward 1.0 if the answer is finished, is a sentence of the grammar and uses all three concepts; else 0.0."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: Seed,
        max_completion_length: CompletionLength,
        held_out: Annotated[int, Field(ge=1, le=RESERVED, examples=[200])],
    ):
        self._grammar = Grammar()
        rows = [_row(concepts) for concepts in self._grammar.triples]
        super().__init__(
            tokenizer,
            context_length,
            Rendering(
                seed=seed,
                max_completion_length=max_completion_length,
                chat_template=False,
                chat_template_kwargs=None,
                date=None,
            ),
            training=rows[RESERVED:],
            held_out=rows[:held_out],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished, a sentence and uses all concepts; else 0.0. Thread-safe."""
        right = finished and set(prompt.columns["concepts"]) <= set(text.split()) and self._grammar.is_sentence(text)
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The text without "the" and "a": texts that differ only in these are the same answer."""
        return " ".join(word for word in text.split() if word not in self._grammar.classes[DETERMINER])

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` pairs of a training prompt and a sentence, for ``dqo-sft``; pure in (count, seed).

        Some have mistakes on purpose, so that a warm start leaves something to learn: with probability 1/3 a concept is
        replaced by another word of its class; with probability 1/6, independently, a word is missing.
        """
        chooser = random.Random(f"demonstrations {seed}")
        pairs = []
        for position in range(count):
            prompt = self._prompt(self._row(position), position)
            words = self._grammar.sentence(prompt.columns["concepts"], chooser)
            if chooser.random() < 1 / 3:
                concept = chooser.choice(prompt.columns["concepts"])
                words[words.index(concept)] = self._grammar.random_word(self._grammar.class_of(concept), words, chooser)
            if chooser.random() < 1 / 6:
                del words[chooser.randrange(len(words))]
            pairs.append((prompt, " ".join(words)))
        return pairs


def _row(concepts: tuple[str, ...]) -> Row:
    text = " ".join([*concepts, ":"])
    return Row(content=text, source=f'the prompt "{text}"', columns={"concepts": list(concepts)})
