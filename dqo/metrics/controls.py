"""Degenerate answers, made of a policy's answers: what metrics give to them shows how each metric is fooled, as figure
2 of arXiv 2509.04784 does."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import replace

from dqo.answers.emptiness import is_empty
from dqo.records import Answers

SAME_IN_OTHER_LANGUAGES = (
    "I am sorry, I cannot answer that.",
    "Es tut mir leid, das kann ich nicht beantworten.",
    "Je suis désolé, je ne peux pas répondre à cela.",
    "Lo siento, no puedo responder a eso.",
    "Mi dispiace, non posso rispondere.",
    "Desculpe, não posso responder a isso.",
    "Het spijt me, daar kan ik geen antwoord op geven.",
    "Jag är ledsen, det kan jag inte svara på.",
    "Olen pahoillani, en voi vastata siihen.",
    "Przykro mi, nie mogę na to odpowiedzieć.",
    "Üzgünüm, buna cevap veremem.",
    "Sajnálom, erre nem tudok válaszolni.",
    "Извините, я не могу на это ответить.",
    "Λυπάμαι, δεν μπορώ να το απαντήσω.",
    "申し訳ありませんが、お答えできません。",
    "죄송하지만 답변할 수 없습니다.",
)


def degenerate(answers: Answers) -> dict[str, Answers]:
    """By name, as many degenerate answers to the same prompt; the same for the same answers.

    Where correctness is defined, only copies of a correct answer are correct. Nothing else is known of them: they have
    no rewards, and count as valid.
    """
    made: dict[str, Callable[[Answers, int], str]] = {
        "copies": lambda group, i: group.texts[_best(group)],
        "random text": _random_text,
        "repeated text": _repeated_text,
        "other languages": lambda group, i: SAME_IN_OTHER_LANGUAGES[i % len(SAME_IN_OTHER_LANGUAGES)],
    }
    return {
        name: _control(answers, [text_of(answers, i) for i in range(len(answers.texts))], is_copy=name == "copies")
        for name, text_of in made.items()
    }


def _control(answers: Answers, texts: Sequence[str], *, is_copy: bool) -> Answers:
    best, k = _best(answers), len(texts)
    right = is_copy and answers.correct is not None and answers.correct[best]
    return replace(
        answers,
        texts=tuple(texts),
        keys=(answers.keys[best],) * k if is_copy else tuple(text.casefold().strip() for text in texts),
        correct=None if answers.correct is None else (right,) * k,
        rewards=None,
        finished=None,
        lengths=None,
    )


def _best(answers: Answers) -> int:
    """The first correct answer that is not empty, or the first one that is not, or the first."""
    filled = [i for i, text in enumerate(answers.texts) if not is_empty(text)] or [0]
    return next((i for i in filled if answers.correct and answers.correct[i]), filled[0])


def _random_text(answers: Answers, i: int) -> str:
    """Words of random letters, as many and as long as the answer's."""
    generator = random.Random(f"{answers.prompt.position} {i}")
    words = answers.texts[i].split() or [""]
    return " ".join("".join(generator.choices(string.ascii_lowercase, k=len(word) or 5)) for word in words)


def _repeated_text(answers: Answers, i: int) -> str:
    """The first words of the answer, again and again: three times, and at least 30 words."""
    start = answers.texts[i].split()[:5] or ["word"]
    return " ".join(start * max(3, 30 // len(start)))
