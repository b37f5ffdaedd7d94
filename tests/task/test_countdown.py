"""The check of an answer against brute force, its key, and the demonstrations."""

import itertools
import time
from collections import Counter

import pytest

from dqo.models.tiny import COUNTDOWN, Tiny
from dqo.task.countdown import RESERVED, Countdown
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
HOSTILE = [
    "9**9**9", "(" * 10**6, "-" * 10**6, "9" * 10**6, "\\boxed{" * 100_000, "2*6=" * 250_000, "__import__('os')",
    "\\boxed{" + "(" * 10**6 + "}", "2*6" + " " * 10**6 + "x", "\x00", "2*6\x00", "٢*٦", "**" * 500_000,
]  # fmt: skip


def tokenizer():
    return Tiny(hidden_size=128, intermediate_size=344, layers=4, heads=4, context_length=64, seed=0,
                words_of=COUNTDOWN).load_tokenizer()  # fmt: skip


def countdown(words=None, context_length=64, **keys) -> Countdown:
    keys = with_rendering({"held_out": 200, "chat_template": False, **keys}, max_completion_length=16)
    return Countdown(words or tokenizer(), context_length, **keys)


@pytest.fixture(scope="module")
def task() -> Countdown:
    return countdown()


def test_every_pair_is_judged_as_arithmetic_judges_it(task):
    """All expressions of two of the numbers 1 to 13, of which some are given and some are not."""
    for prompt in task.held_out()[:3]:
        numbers, target = prompt.columns["numbers"], prompt.columns["target"]
        for a, b in itertools.product(range(1, 14), repeat=2):
            values = {f"{a} + {b}": a + b, f"{a} - {b}": a - b, f"{a} * {b}": a * b, f"{a} / {b}": a / b}
            for text, value in values.items():
                right = value == target and a in numbers and b in numbers and a != b
                assert task.check(prompt, text, True).correct is right, (numbers, target, text)
                assert not task.check(prompt, text, False).correct


def test_a_solution_in_any_notation(task):
    prompt, text = next(
        (prompt, text) for prompt, text in task.demonstrations(99, 0) if "*" in text and "+" not in text
    )
    assert task.check(prompt, text, True).reward == 1.0
    target = prompt.columns["target"]
    for written in (
        text.replace(" ", ""), f"({text})", f"  {text}\n", f"\\boxed{{{text}}}", f"**{text}**", f"`{text}`.",
        "$" + text.replace("*", r"\times") + "$", text.replace("*", "×"), f"{text} = {target}",
        f"So: \\boxed{{{text}={target}}}!",
    ):  # fmt: skip
        assert task.check(prompt, written, True).correct, written
        assert task.key(prompt, written) == task.key(prompt, text)
    for other in (f"{text} = {target + 1}", f"{target} = {text}", f"The answer is {text}", f"{text} {text}",
                  f"{text} + 0", str(target), f"\\boxed{{{text}", f"{text} =", f"{text}, or {text}"):  # fmt: skip
        assert not task.check(prompt, other, True).correct, other


def test_a_number_counts_once_and_two_or_three_are_used(task):
    for prompt in task.held_out():
        a = prompt.columns["numbers"][0]
        target = prompt.columns["target"]
        assert not task.check(prompt, f"{target}", True).correct
        assert not task.check(prompt, f"{target} + {a} - {a}", True).correct
    prompt = next(p for p in task.held_out() if any(2 * n == p.columns["target"] for n in p.columns["numbers"]))
    half = prompt.columns["target"] // 2
    assert not task.check(prompt, f"{half} + {half}", True).correct
    four = [n for n in prompt.columns["numbers"] if n != half][:4]
    assert not task.check(prompt, " + ".join(map(str, four)), True).correct


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers_are_wrong_at_once(task, text):
    prompt = task.held_out()[0]
    start = time.perf_counter()
    assert not task.check(prompt, text, True).correct
    task.key(prompt, text)
    assert time.perf_counter() - start < 2.0


def test_keys_are_modes(task):
    prompt = task.held_out()[0]
    assert task.key(prompt, "(7-2)*4") == task.key(prompt, "4 * (7 - 2)") == task.key(prompt, "-4*(2-7)")
    assert task.key(prompt, "4*7-2") != task.key(prompt, "(7-2)*4")
    assert task.key(prompt, "No idea.") == task.key(prompt, "no  idea") == "no idea"


def test_held_out_puzzles_are_the_same_for_every_seed_and_never_trained_on(task):
    other = countdown(seed=5, held_out=RESERVED)
    assert [p.content for p in other.held_out()[:200]] == [p.content for p in task.held_out()]
    held_out = {(p.columns["numbers"], p.columns["target"]) for p in other.held_out()}
    trained = {(row.columns["numbers"], row.columns["target"]) for row in task._training}
    assert len(held_out) == RESERVED
    assert len(trained) > 1000
    assert not held_out & trained


def test_columns_and_vocabulary(task):
    words = tokenizer()
    for prompt, text in task.demonstrations(300, 1):
        assert words.unk_token_id not in [*prompt.tokens, *words(text)["input_ids"]]
        numbers = " ".join(map(str, prompt.columns["numbers"]))
        assert prompt.content == f"{numbers} = {prompt.columns['target']} :"
        assert prompt.columns["modes"] >= 3
        assert len(words(text)["input_ids"]) < 16


def test_demonstrations_are_right_and_varied(task):
    pairs = task.demonstrations(2000, 0)
    assert pairs[:50] == task.demonstrations(50, 0)
    assert all(task.check(prompt, text, True).correct for prompt, text in pairs)
    assert all(Counter(sign for _, text in pairs for sign in text)[sign] > 50 for sign in "+-*/(")
    assert any(text != task.key(prompt, text) for prompt, text in pairs)  # not only the mode's own wording


def test_a_chat_template_gets_the_puzzle_in_words():
    words = word_tokenizer()
    words.chat_template = CHAT
    chat = countdown(words, 2048, chat_template=True)
    prompt = chat.held_out()[0]
    assert str(prompt.content).startswith("Use two or three of the numbers ")
    assert f"to make {prompt.columns['target']}." in str(prompt.content)
    without = countdown(word_tokenizer(), 2048, chat_template=True)  # a tokenizer that has none
    assert str(without.held_out()[0].content).endswith(" :")
