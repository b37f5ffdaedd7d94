"""``task=concepts``: a sandbox in which a whole ablation runs in minutes (with ``model=tiny``).

Three concept words → one sentence that uses them: "dog ball park :" → "in the park , a shy dog hid the ball ." A small
grammar judges the answers, and every prompt has thousands of right ones.
"""

import random

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.grammar import DETERMINER, Grammar
from dqo.task.reading.rows import Row, RowTask

RESERVED = 500  # prompts that no seed trains on: a warm start of another seed must not have seen them either


class Concepts(RowTask):
    """Reward 1 if the answer is finished, is a sentence of the grammar and uses all three concepts."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: int,
        max_completion_length: int,
        held_out: int,
    ):
        if not 1 <= held_out <= RESERVED:
            raise ConfigError(f"task.held_out={held_out}: 1 to {RESERVED} can be; type task.held_out=200")
        self._grammar = Grammar()
        rows = [_row(concepts) for concepts in self._grammar.triples]
        super().__init__(
            tokenizer,
            context_length,
            seed=seed,
            max_completion_length=max_completion_length,
            chat_template=False,
            training=rows[RESERVED:],
            held_out=rows[:held_out],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        right = finished and set(prompt.columns["concepts"]) <= set(text.split()) and self._grammar.is_sentence(text)
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The text without "the" and "a": what differs in these alone is the same answer."""
        return " ".join(word for word in text.split() if word not in self._grammar.classes[DETERMINER])

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """Sentences with mistakes, on purpose, so that a warm start leaves something to be learned: in a third of them
        a concept is swapped for another word of its class, in a sixth (independently) a word is missing.
        """
        chooser = random.Random(f"demonstrations {seed}")
        pairs = []
        for position in range(count):
            prompt = self._prompt(self._row(position), position)
            words = self._grammar.sentence(prompt.columns["concepts"], chooser)
            if chooser.random() < 1 / 3:
                concept = chooser.choice(prompt.columns["concepts"])
                words[words.index(concept)] = self._grammar.another(self._grammar.class_of(concept), words, chooser)
            if chooser.random() < 1 / 6:
                del words[chooser.randrange(len(words))]
            pairs.append((prompt, " ".join(words)))
        return pairs


def _row(concepts: tuple[str, ...]) -> Row:
    text = " ".join([*concepts, ":"])
    return Row(content=text, source=f'the prompt "{text}"', columns={"concepts": list(concepts)})
