"""``task=countdown``: the puzzle with many answers. Reach a target with two or three of some numbers, each used once.

"2 3 4 6 9 11 = 12 :" → "2 * 6", "4 * 3", "6 + 2 + 4" … Which answers are right is exact, and so is which of them are
the same solution: diversity has a ground truth without an encoder. Puzzles are generated; no file is read.
"""

import random
from contextlib import suppress
from functools import cache
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.answers.finding import in_boxes, unwrapped
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.arithmetic.expressions import LONGEST, Expression, NoExpression, read, written
from dqo.task.arithmetic.puzzles import USED, Puzzle, Puzzles
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering

RESERVED = 500  # held-out puzzles, the same for every seed: a warm start may have used another seed
IN_WORDS = (
    "Use two or three of the numbers {} to make {}. Each number may be used once; +, -, *, / and brackets are allowed. "
    "Answer with only the expression."
)


class Countdown(RowTask):
    """Reward 1.0 if the answer is finished, is an expression that equals the target, and has two or three numbers of
    the puzzle, each once; else 0.0. With a chat template the puzzle is told in words."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        held_out: Annotated[int, Field(ge=1, le=RESERVED, examples=[200])],
    ):
        in_words = bool(rendering.chat_template and tokenizer.chat_template)
        rows = [_row(puzzle, in_words) for puzzle in _puzzles().all]
        super().__init__(tokenizer, context_length, rendering, training=rows[RESERVED:], held_out=rows[:held_out])

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and solves the puzzle, else 0.0. Thread-safe."""
        expression = _expression(text)
        right = finished and expression is not None and _solves(expression, prompt)
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The expression's mode: the same for all orders of terms and factors and for brackets that change nothing. For
        a text that is no expression, the text in lower case."""
        expression = _expression(text)
        return super().key(prompt, text) if expression is None else expression.mode()

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """``count`` pairs of a training prompt and an expression, for ``dqo-sft``; pure in (count, seed).

        All are right; a short warm start leaves enough to learn. Solutions with two numbers are shown more often.
        """
        chooser = random.Random(f"demonstrations {seed}")
        pairs = []
        for position in range(count):
            prompt = self._prompt(self._row(position), position)
            puzzle = Puzzle(**{name: prompt.columns[name] for name in ("numbers", "target", "modes")})
            sign, form = _puzzles().random_solution(puzzle, chooser)
            text = written(form, sign, lambda members: chooser.sample(members, len(members)))
            pairs.append((prompt, text + self._renderer.end_of_turn))
        return pairs


def _solves(expression: Expression, prompt: Prompt) -> bool:
    used = expression.numbers
    given = set(used) <= set(prompt.columns["numbers"])
    return given and len(set(used)) == len(used) in USED and expression.value == prompt.columns["target"]


def _expression(text: str) -> Expression | None:
    """The expression that an answer is, or that its last box holds; None if there is none. What follows "=" must be its
    value. Examples: "(2+4)*2", "**2 × 6 = 12**"."""
    boxed = in_boxes(text)
    text = (boxed.last if boxed else text).strip()
    if len(text) > LONGEST:
        return None
    left, equals, right = unwrapped(text).partition("=")
    with suppress(NoExpression):
        expression = read(left)
        if not equals or read(right).value == expression.value:
            return expression
    return None


def _row(puzzle: Puzzle, in_words: bool) -> Row:
    numbers = [str(number) for number in puzzle.numbers]
    short = f"{' '.join(numbers)} = {puzzle.target} :"
    words = IN_WORDS.format(f"{', '.join(numbers[:-1])} and {numbers[-1]}", puzzle.target)
    return Row(
        content=words if in_words else short,
        source=f'the puzzle "{short}"',
        columns={"numbers": puzzle.numbers, "target": puzzle.target, "modes": puzzle.modes},
    )


@cache
def _puzzles() -> Puzzles:
    return Puzzles()
