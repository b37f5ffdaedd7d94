"""The language of ``task=concepts``: a finite grammar over some 140 words (``dqo/data/concepts.json``)."""

import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

LANGUAGE = Path(__file__).parents[2] / "data" / "concepts.json"
DETERMINER = "determiner"  # the one class whose words ("the", "a") may come twice

Template = tuple[str, ...]  # word classes and literal words: ("determiner", "actor", "act", "in", …, ".")


class Grammar:
    """Decides which texts are sentences, and samples sentences.

    Every word belongs to one class or is a literal, so a text is a sentence if its classes are a template.
    """

    def __init__(self, path: Path = LANGUAGE):
        language = json.loads(path.read_text("utf-8"))
        self.words: list[str] = language["words"]
        self.classes: dict[str, list[str]] = language["classes"]
        self._rules: dict[str, list[str]] = language["rules"]
        self._kinds: list[list[str]] = language["kinds"]
        self._class_of = {word: word for word in self.words}
        self._class_of |= {word: name for name, words in self.classes.items() for word in words}
        self._templates_by_length = cache(self._matching_templates)

    @cached_property
    def templates(self) -> frozenset[Template]:
        """All templates of a sentence."""
        return frozenset(self._templates_of("sentence"))

    @cached_property
    def triples(self) -> list[tuple[str, ...]]:
        """Every set of three concepts once, in a shuffled order that never changes."""
        choices = (itertools.product(*(self.classes[name] for name in kind)) for kind in self._kinds)
        sets = {frozenset(words) for words in itertools.chain(*choices)}
        triples = sorted(tuple(sorted(words)) for words in sets if len(words) == 3)
        chooser = random.Random("concepts")
        chooser.shuffle(triples)
        return [tuple(chooser.sample(triple, 3)) for triple in triples]

    def is_sentence(self, text: str) -> bool:
        """Whether the grammar generates this text and no word of a class occurs twice (except "the" and "a")."""
        words = text.split()
        template = tuple(self._class_of.get(word, "") for word in words)
        once = [word for word, name in zip(words, template, strict=True) if name not in (word, DETERMINER)]
        return template in self.templates and len(set(once)) == len(once)

    def sentence(self, concepts: Sequence[str], chooser: random.Random) -> list[str]:
        """The words of a random sentence with these concepts; its length is the shorter of two random lengths."""
        lengths = self._templates_by_length(tuple(sorted(self._class_of[word] for word in concepts)))
        template = chooser.choice(lengths[min(chooser.randrange(len(lengths)), chooser.randrange(len(lengths)))])
        words, slots = list(template), list(range(len(template)))
        chooser.shuffle(slots)
        for concept in concepts:
            slot = next(slot for slot in slots if template[slot] == self._class_of[concept])
            words[slot] = concept
            slots.remove(slot)
        for slot in slots:
            if template[slot] in self.classes:
                words[slot] = self.random_word(template[slot], words, chooser)
        return words

    def random_word(self, name: str, words: Sequence[str], chooser: random.Random) -> str:
        """A random word of the class ``name`` that is not in ``words`` (a determiner may be)."""
        return chooser.choice([word for word in self.classes[name] if name == DETERMINER or word not in words])

    def class_of(self, word: str) -> str:
        """The class of a word; a literal is its own class."""
        return self._class_of[word]

    def _templates_of(self, symbol: str) -> Iterator[Template]:
        for alternative in self._rules.get(symbol, ()):
            for parts in itertools.product(*(list(self._templates_of(part)) for part in alternative.split())):
                yield tuple(itertools.chain(*parts))
        if symbol not in self._rules:
            yield (symbol,)

    def _matching_templates(self, kind: tuple[str, ...]) -> list[list[Template]]:
        """The templates that contain these classes, grouped by length, shortest first."""
        needed = Counter(kind)
        fitting = sorted((t for t in self.templates if needed <= Counter(t)), key=lambda t: (len(t), t))
        return [list(group) for _, group in itertools.groupby(fitting, key=len)]
