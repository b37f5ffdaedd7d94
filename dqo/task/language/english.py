"""Checks of English text without a model: is it plausibly one sentence, and which words does it use?"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from dqo.task.language.sentences import sentences

LEXICON = Path(__file__).parents[2] / "data" / "english.json"
MAX_WORDS = 30
MIN_FUNCTION_WORDS = 0.2  # share of the words
MAX_UNKNOWN = 1  # words; a name or a rare word is tolerated
SPEECH_END = re.compile(r"""[.!?](?=["”’']\s+[a-z])""")
PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-"}


def words_of(text: str) -> list[str]:
    """The words in lower case without accents; "dog's" gives "dog", "can't" stays whole, "well-known" is two words."""
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", _ascii(text).lower())
    return [re.sub("'(s|m|re|ve|ll|d)$", "", word) for word in words]


@cache
def forms(word: str) -> frozenset[str]:
    """The word and its inflections, regular and irregular; some of them do not exist in English ("runed").

    Example: "carry" gives carry, carries, carried, carrying; "stand" gives stood.
    """
    stem, last = word[:-1], word[-1:]
    if last == "e":
        regular = [f"{word}d", f"{stem}ing"]
    elif last == "y":
        regular = [f"{stem}ies", f"{stem}ied", f"{word}ed", f"{word}ing"]
    else:
        regular = [f"{word}es", f"{word}ed", f"{word}ing", f"{word}{last}ed", f"{word}{last}ing"]
    men = [f"{word[:-2]}en"] if word.endswith("man") else []
    return frozenset([word, f"{word}s", *regular, *men, *_lexicon()["irregular"].get(word, ())])


def covered_concepts(concepts: Sequence[str], text: str) -> list[str]:
    """The concepts that occur in the text, in any inflection."""
    words = set(words_of(text))
    return [concept for concept in concepts if not words.isdisjoint(forms(concept))]


def fault(text: str, concepts: Sequence[str], known: Collection[str]) -> str | None:
    """Why the text is not one well-formed sentence about the concepts; None if no fault is found.

    96 % of CommonGen's human references (dev split, with capital and full stop) have no fault. Each trick that policies
    learned from a reward for coverage alone is a fault: emoji, invented words, lists, repetition, several sentences.
    """
    text = text.strip().strip('"“”').strip()
    words = words_of(text)
    function_words = [word for word in words if word in _function_words()]
    content_words = [word for word in words if word not in _function_words()]
    if not text[:1].isupper() or not re.fullmatch(r"[A-Za-z0-9 ,;:'\"&$%()-]+[.!?]", _ascii(text)):
        return "not one sentence, from a capital to a full stop, of letters"
    if not len(concepts) + 2 <= len(words) <= MAX_WORDS:
        return "too short or too long"
    if len(function_words) < MIN_FUNCTION_WORDS * len(words):
        return "too few function words"
    if any(a == b for a, b in pairwise(words)) or max(Counter(content_words).values(), default=0) > 2:
        return "a word is repeated"
    if len(concepts) > 2 and _longest_run(words, concepts) >= len(concepts):
        return "a list of the words"
    if sum(word not in known for word in content_words) > MAX_UNKNOWN:
        return "unknown words"
    return None


def story_fault(text: str, concepts: Sequence[str], known: Collection[str], *, least: int, most: int) -> str | None:
    """Why the text is not a story of ``least`` to ``most`` well-formed sentences; None if no fault is found. Each
    sentence is held to ``fault``, but may end direct speech: "Run!" she said."""
    parts = [SPEECH_END.sub(",", part.strip()) for part in sentences(text)]
    if not least <= len(parts) <= most:
        return f"not {least} to {most} sentences"
    if len({part.lower() for part in parts}) < len(parts):
        return "a sentence is repeated"
    if len(concepts) > 2 and _longest_run(words_of(text), concepts) >= len(concepts):
        return "a list of the words"
    return next((found for part in parts if (found := fault(part, (), known))), None)


def _longest_run(words: Sequence[str], concepts: Sequence[str]) -> int:
    """Length of the longest run of concepts with no other word between them than "and" and "or"."""
    wanted = frozenset().union(*map(forms, concepts))
    longest = run = 0
    for word in words:
        if word not in ("and", "or"):
            run = run + 1 if word in wanted else 0
        longest = max(longest, run)
    return longest


def _ascii(text: str) -> str:
    """The text without accents and with plain quotes; letters that are not Latin stay as they are."""
    if text.isascii():
        return text
    letters = unicodedata.normalize("NFKD", text.translate(PLAIN))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


@cache
def _lexicon() -> dict:
    return json.loads(LEXICON.read_text("utf-8"))


@cache
def _function_words() -> frozenset[str]:
    return frozenset(_lexicon()["function_words"])
