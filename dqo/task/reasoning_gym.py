"""``task=reasoning_gym``: problems without end from a generator of the package reasoning-gym, which also judges the
answers (Stojanovski et al. 2025, arXiv 2505.24760)."""

import hashlib
import importlib.util
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Annotated, Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.answers.finding import in_tags
from dqo.errors import ConfigError, StageError
from dqo.ranges import Seconds
from dqo.records import Prompt
from dqo.sandbox.sandbox import Kind, Sandbox, SandboxError
from dqo.stages import Verdict
from dqo.task.reading.row import Row
from dqo.task.reading.rows import RowTask
from dqo.task.reading.settings import Rendering

CALLS = "dqo.task.generators.reasoning_gym_calls"
PROMPT = "{}\n\nGive your final answer between <answer> and </answer>."
RESERVED = 1_000_000  # numbers of problems that may be held out
NUMBERS = 4_000_000_000  # of problems to train on; generators take seeds below 2**32
ELSEWHERE = 1_000_003_000  # to a problem of another part of these
TRIES = 100  # problems that are looked at for one prompt
STARTED, GENERATED = 120.0, 60.0  # seconds: the package's import takes some; a problem takes 0.1 ms to 0.2 s
MEMORY = 4 << 30  # bytes for each process
LONGEST = 10_000  # characters of an answer that is scored
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}  # some generators iterate over sets of texts
EVALUATING = frozenset({  # they run eval(), or sympy's parse_expr(), which does, on the answer
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
})  # fmt: skip


class ReasoningGym(RowTask):
    """The reward is the generator's score, 0.0 to 1.0, of what stands in the last <answer> and </answer> of a finished
    completion; without them 0.0. An answer with the score 1.0 is correct; many generators accept several.

    The generator runs in a process of its own. An answer on which its score fails, or takes too long, gets 0.0 and is
    counted. Held-out problems have numbers below ``RESERVED``, training problems other numbers and other texts.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        generator: Annotated[str, Field(examples=["leg_counting"])],
        settings: Annotated[dict[str, Any], Field(examples=["{min_animals: 2}"])],
        evaluate_answers: bool,
        timeout: Seconds,
        held_out: Annotated[int, Field(ge=1, le=10_000, examples=[200])],
    ):
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ConfigError("task=reasoning_gym needs the package: pip install 'dqo-rl[reasoning]'")
        _refuse_evaluation(generator, settings, evaluate_answers)
        self._generator, self._settings = generator, settings
        self._counts, self._counting = {"errors": 0, "timeouts": 0}, threading.Lock()
        setup = (f"{CALLS}:configure", {"name": generator, "settings": settings})
        self._making, self._scoring = (
            Sandbox(timeout=each, setup=setup, start_timeout=STARTED, memory_limit=MEMORY, environment=ENVIRONMENT)
            for each in (GENERATED, timeout)
        )
        try:
            fault = self._making.start()
        except SandboxError as error:
            raise ConfigError(f"task.generator={generator}: {error}; type task.generator=NAME of another") from error
        if fault:
            raise ConfigError(fault)
        rows = self._different_rows(held_out)
        super().__init__(tokenizer, context_length, rendering, training=[], held_out=rows, skip_long=True)
        self._kept_away = {row.content for row in rows}

    def draw(self, cursor: int, count: int) -> tuple[Sequence[Prompt], int]:
        """See ``RowTask.draw``: the problems do not repeat, and depend on the seed."""
        end = cursor + count
        rows = (self._training_row(str(self._seed), position) for position in range(cursor, end))
        return [self._prompt(row, position) for position, row in enumerate(rows, cursor)], end

    def demonstrations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """See ``RowTask.demonstrations``: the right answer alone, without a way to it. Raises ConfigError where the
        generator knows none, since several are right."""
        pairs = []
        for position in range(count):
            row = self._training_row(f"demonstrations {seed}", position)
            if not row.demonstrations:
                raise ConfigError(
                    f"task.generator={row.columns['generator']} gives no right answers to learn from, only a score; "
                    "type task.generator=NAME of another one, or warm_start=false"
                )
            pairs.append((self._prompt(row, position), row.demonstrations[0] + self._renderer.end_of_turn))
        return pairs

    def fingerprints(self) -> dict[str, str]:
        """See ``row_checks.Fingerprinted``: the training problems are known by their generator."""
        version = metadata.version("reasoning-gym")
        training = f"reasoning-gym {version}, {self._generator} {json.dumps(self._settings, sort_keys=True)}"
        return {**super().fingerprints(), "training rows": training}

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The generator's score, correct if it is 1.0; 0.0 if unfinished, without an answer in tags, or where the score
        fails. Thread-safe; one answer is scored at a time."""
        answer = self._answer(text)
        if not finished or answer is None or len(answer) > LONGEST:
            return Verdict(reward=0.0, correct=False)
        try:
            score = self._scoring.call(f"{CALLS}:score", number=prompt.columns["number"], answer=answer)
        except SandboxError as error:
            with self._counting:
                self._counts["timeouts" if error.kind is Kind.TIMEOUT else "errors"] += 1
            return Verdict(reward=0.0, correct=False)
        return Verdict(reward=score, correct=score >= 1.0)

    def key(self, prompt: Prompt, text: str) -> str:
        """The answer between the tags, in lower case and without extra white space; of a text without one the text."""
        answer = self._answer(text)
        return super().key(prompt, text if answer is None else answer)

    def counters(self) -> dict[str, int]:
        """Answers since the start on which the generator's score failed, and those for which it took too long.
        Thread-safe."""
        with self._counting:
            return dict(self._counts)

    def close(self) -> None:
        """End the generator's processes."""
        self._making.close()
        self._scoring.close()

    def _answer(self, text: str) -> str | None:
        answer = in_tags(text)
        return None if answer is None else answer.strip()

    def _different_rows(self, count: int) -> list[Row]:
        """The first ``count`` problems with different texts. Raises ConfigError if there are not so many."""
        found: dict[Any, Row] = {}
        for number in range(10 * count + TRIES):
            row = self._row_of(number)
            found.setdefault(row.content, row)
            if len(found) == count:
                return list(found.values())
        raise ConfigError(
            f"task.held_out={count}: {self._generator} made only {len(found)} different problems; type "
            f"task.held_out={max(1, len(found) // 2)}"
        )

    def _training_row(self, stream: str, position: int) -> Row:
        """The problem at a position of a stream: the next one elsewhere, if it is held out or too long. Pure."""
        start = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=4).digest())
        for attempt in range(TRIES):
            row = self._row_of(RESERVED + (start + position + attempt * ELSEWHERE) % NUMBERS)
            if row.content not in self._kept_away and self._lengths.fits(row):
                return row
        raise ConfigError(
            f"task.generator={self._generator}: {TRIES} problems in a row are held out or too long for the model; type "
            "task.settings={KEY: VALUE} for more or shorter ones, or a smaller task.held_out"
        )

    def _row_of(self, number: int) -> Row:
        try:
            made: Mapping[str, Any] = self._making.call(f"{CALLS}:problem", number=number)
        except SandboxError as error:
            raise StageError("task", f"{self._generator} made no problem {number}: {error}", positions=[]) from error
        answer = made["answer"]
        row = Row(
            content=PROMPT.format(made["question"].strip()),
            source=f"{self._generator}, problem {number}",
            columns={"answer": answer, "number": number, "generator": made["generator"]},
        )
        return row if answer is None else replace(row, demonstrations=(f"<answer>{answer}</answer>",))


def _refuse_evaluation(generator: str, settings: Mapping[str, Any], evaluate_answers: bool) -> None:
    parts = [each.get("name") for each in settings.get("datasets", ()) if isinstance(each, Mapping)]
    if not evaluate_answers and (found := next((name for name in (generator, *parts) if name in EVALUATING), None)):
        raise ConfigError(
            f"task.generator={generator}: the score of {found} runs the model's answer as Python code, with your "
            "rights; type task.evaluate_answers=true if you want that"
        )
