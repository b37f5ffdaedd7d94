"""Reward for mathematically equal answers (math-verify), compared in a process that can be killed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dqo.errors import StageError
from dqo.ranges import Seconds
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.scoring.bad_rows import OnBadAnswer, check_column, no_column, rows_to_leave_out
from dqo.reward.scoring.right_answers import MEMORY, as_text, readings
from dqo.reward.scoring.tolerance import OnError, Tolerance
from dqo.reward.scoring.totals import judged_mask, total
from dqo.sandbox.sandbox import Kind, Sandbox, SandboxError
from dqo.stages import Task

JUDGE = "dqo.reward.sandbox.verify_math:judge"
SHOWN = 3  # right answers in a dry run
KEY = "reward.answer_column"


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    correct: bool = False
    parsed: bool = True
    failed: bool = False  # tolerated by on_error or on_bad_answer
    fill: float = math.nan  # the reward of a failure


class Math:
    """Reward 1.0 if the completion's answer equals the right answer in ``answer_column``, else 0.0.

    A completion without an answer gets 0.0 and is counted. ``on_error`` decides about a completion that math-verify
    hangs or crashes on, ``on_bad_answer`` about a row whose right answer cannot be read. A truncated and masked
    completion is not judged; its part is NaN.
    """

    def __init__(
        self,
        task: Task,
        *,
        answer_column: str,
        timeout: Seconds,
        on_error: OnError,
        on_bad_answer: OnBadAnswer,
        mask_truncated_completions: bool,
    ):
        """``timeout``: seconds per completion. Raises ConfigError if the task's first prompt lacks that column."""
        self._column, self._mask_truncated = answer_column, mask_truncated_completions
        self._tolerance, self._masks_answers = Tolerance(on_error), on_bad_answer == "mask"
        self._timeout = timeout
        prompts = task.held_out()[:1]  # a task may have no others
        if answer_column not in prompts[0].columns:
            raise no_column(answer_column, prompts[0].columns, KEY)
        self._sandbox = Sandbox(timeout=timeout, setup=(JUDGE, {"answer": "$1$", "text": "$1$"}), memory_limit=MEMORY)
        self._sandbox.start()

    @classmethod
    def bad_rows(
        cls,
        rows: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        answer_column: str,
        timeout: Seconds,
        on_bad_answer: OnBadAnswer,
        **others: Any,
    ) -> Sequence[int]:
        """See ``row_checks.ChecksRows``. The other arguments are keys as the constructor gets them."""
        check_column(rows, answer_column, KEY)
        answers = [as_text(columns.get(answer_column)) for _, columns in rows]
        read = readings([answer for answer in answers if answer is not None], timeout)
        bad = [number for number, answer in enumerate(answers) if answer is None or read[answer] is None]
        fault = "holds no answer to maths that can be read"
        return rows_to_leave_out(rows, bad, on_bad_answer, column=answer_column, key=KEY, fault=fault)

    def explained(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """See ``row_checks.Explaining``: some right answers and what they are read as, first those that change."""
        answers = [as_text(prompt.columns.get(self._column)) for prompt in prompts]
        read = readings(
            answers := list(dict.fromkeys(answer for answer in answers if answer is not None)), self._timeout
        )
        answers.sort(key=lambda answer: read[answer] == answer)
        return [
            f"right answer {answer!r:.80} is read as {read[answer] or 'nothing'!s:.80}" for answer in answers[:SHOWN]
        ]

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``math``: (P, k) float32.

        Raises StageError if math-verify fails on a completion and ``on_error=raise``, or if a right answer cannot be
        read, unless ``on_bad_answer=mask``. Judge threads call this concurrently; thread-safe, since the process makes
        one comparison at a time. Not a collective.
        """
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        judged: dict[tuple[str | None, str], _Judgement | SandboxError | None] = {}  # a group often has equal texts
        rows = []
        for b, (text, counts) in enumerate(zip(rollouts.texts, valid_PK.flatten().tolist(), strict=True)):
            if not counts:
                rows.append(_Judgement())
                continue
            prompt = rollouts.prompts[b // rollouts.k]
            key = (as_text(prompt.columns.get(self._column)), text)
            if key not in judged:
                judged[key] = self._judge(*key)
            rows.append(self._counted(prompt, text, judged[key]))
        failed_PK = torch.tensor([row.failed for row in rows]).view_as(valid_PK)
        fill_PK = torch.tensor([row.fill for row in rows]).view_as(valid_PK)
        correct_PK = torch.tensor([row.correct for row in rows]).view_as(valid_PK)
        reward_PK = torch.where(failed_PK, fill_PK, correct_PK.float()).masked_fill(~valid_PK, math.nan)
        parts = {"math": reward_PK}
        total_PK, valid_PK = total(rollouts, parts, {"math": 1.0}, valid_PK)
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK & valid_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """Totals since the start: ``math/errors``, ``math/timeouts``, ``math/unparsed`` and, with
        ``on_bad_answer=mask``, ``math/bad_answers`` count completions, ``math/restarts`` restarts of the process.
        Thread-safe; not a collective."""
        names = ["math/errors", "math/timeouts", "math/unparsed", *["math/bad_answers"] * self._masks_answers]
        counts = dict.fromkeys(names, 0)
        return counts | self._tolerance.counters() | {"math/restarts": self._sandbox.restarts}

    def close(self) -> None:
        """End the process that compares; a running call of ``score`` then fails."""
        self._sandbox.close()

    def _judge(self, answer: str | None, text: str) -> _Judgement | SandboxError | None:
        """None: the right answer cannot be read."""
        if answer is None:
            return None
        try:
            verdict = self._sandbox.call(JUDGE, answer=answer, text=text)
        except SandboxError as error:
            return error
        return _Judgement(correct=verdict["correct"], parsed=verdict["parsed"]) if verdict["answer_parsed"] else None

    def _counted(self, prompt: Prompt, text: str, judgement: _Judgement | SandboxError | None) -> _Judgement:
        """The judgement of one completion, counted; a failure raises, or becomes what the keys say."""
        if judgement is None:
            answer = prompt.columns.get(self._column)
            problem = f"column {self._column}: there is no answer in {answer!r:.80} that can be read"
            if not self._masks_answers:
                advice = "type reward.on_bad_answer=mask to ignore the completions of such rows"
                raise StageError("reward", f"{problem}; {advice}", positions=[prompt.position])
            self._tolerance.count({"math/bad_answers": 1})
            return _Judgement(failed=True)
        if isinstance(judgement, SandboxError):
            counts = {"math/errors": 1, "math/timeouts": int(judgement.kind is Kind.TIMEOUT)}
            problem = f"math-verify failed on {text[-80:]!r}: {judgement}"
            error = StageError("reward", problem, positions=[prompt.position])
            error.__cause__ = judgement
            self._tolerance.raise_or_count(error, counts=counts)
            return _Judgement(failed=True, fill=self._tolerance.fill)
        if not judgement.parsed:
            self._tolerance.count({"math/unparsed": 1})
        return judgement
