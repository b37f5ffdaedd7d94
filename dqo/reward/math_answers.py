"""Reward for mathematically equal answers (math-verify), compared in a process that can be killed."""

import math
from dataclasses import dataclass

import torch

from dqo.errors import ConfigError, StageError
from dqo.ranges import Seconds
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.sandbox.sandbox import Kind, Sandbox, SandboxError
from dqo.reward.scoring.tolerance import OnError, Tolerance
from dqo.reward.scoring.totals import judged_mask, total
from dqo.stages import Task

JUDGE = "dqo.reward.sandbox.verify_math:judge"
MEMORY = 4 << 30  # bytes: the answer 10^(10^10) must not fill the machine's memory


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    correct: bool = False
    parsed: bool = True
    failure: SandboxError | None = None


class Math:
    """Reward 1.0 if the completion's answer equals the right answer in ``answer_column``, else 0.0.

    A completion without an answer gets 0.0 and is counted. ``on_error`` decides about a completion that math-verify
    hangs or crashes on. A truncated and masked completion is not judged; its part is NaN.
    """

    def __init__(
        self, task: Task, *, answer_column: str, timeout: Seconds, on_error: OnError, mask_truncated_completions: bool
    ):
        """``timeout``: seconds per completion. Raises ConfigError if the task's first prompt lacks that column."""
        self._column, self._mask_truncated = answer_column, mask_truncated_completions
        self._tolerance = Tolerance(on_error)
        prompts, _ = task.draw(0, 1)
        if answer_column not in prompts[0].columns:
            known = ", ".join(prompts[0].columns) or "none"
            raise ConfigError(f"reward.answer_column={answer_column}: there is no such column; there are {known}")
        self._sandbox = Sandbox(timeout=timeout, setup=(JUDGE, {"answer": "$1$", "text": "$1$"}), memory_limit=MEMORY)
        self._sandbox.start()

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``math``: (P, k) float32.

        Raises StageError if math-verify fails on a completion and ``on_error=raise``; and, whatever ``on_error`` is, if
        it finds no answer in ``answer_column``. Judge threads call this concurrently; thread-safe, since the process
        makes one comparison at a time. Not a collective.
        """
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        judged: dict[tuple[str, str], _Judgement] = {}  # a group often has equal texts: compare each text once
        rows = []
        for b, (text, counts) in enumerate(zip(rollouts.texts, valid_PK.flatten().tolist(), strict=True)):
            if not counts:
                rows.append(_Judgement())
                continue
            prompt = rollouts.prompts[b // rollouts.k]
            key = (self._answer(prompt), text)
            if key not in judged:
                judged[key] = self._judge(prompt, *key)
            rows.append(judged[key])
            self._count(prompt, text, rows[-1])
        failed_PK = torch.tensor([row.failure is not None for row in rows]).view_as(valid_PK)
        correct_PK = torch.tensor([row.correct for row in rows]).view_as(valid_PK)
        reward_PK = torch.where(failed_PK, self._tolerance.fill, correct_PK.float()).masked_fill(~valid_PK, math.nan)
        parts = {"math": reward_PK}
        total_PK, valid_PK = total(rollouts, parts, {"math": 1.0}, valid_PK)
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK & valid_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """Totals since the start: ``math/errors``, ``math/timeouts`` and ``math/unparsed`` count completions,
        ``math/restarts`` restarts of the process. Thread-safe; not a collective."""
        counts = dict.fromkeys(("math/errors", "math/timeouts", "math/unparsed"), 0)
        return counts | self._tolerance.counters() | {"math/restarts": self._sandbox.restarts}

    def close(self) -> None:
        """End the process that compares; a running call of ``score`` then fails."""
        self._sandbox.close()

    def _answer(self, prompt: Prompt) -> str:
        answer = prompt.columns.get(self._column)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            problem = f"column {self._column} has {answer!r}, the right answer as text or a number is needed"
            raise StageError("reward", problem, positions=[prompt.position])
        return str(answer)

    def _judge(self, prompt: Prompt, answer: str, text: str) -> _Judgement:
        try:
            verdict = self._sandbox.call(JUDGE, answer=answer, text=text)
        except SandboxError as error:
            return _Judgement(failure=error)
        if not verdict["answer_parsed"]:
            problem = f"column {self._column}: math-verify finds no answer in {answer[-80:]!r}"
            raise StageError("reward", problem, positions=[prompt.position])
        return _Judgement(correct=verdict["correct"], parsed=verdict["parsed"])

    def _count(self, prompt: Prompt, text: str, judgement: _Judgement) -> None:
        if judgement.failure is not None:
            counts = {"math/errors": 1, "math/timeouts": int(judgement.failure.kind is Kind.TIMEOUT)}
            error = StageError(
                "reward", f"math-verify failed on {text[-80:]!r}: {judgement.failure}", positions=[prompt.position]
            )
            error.__cause__ = judgement.failure
            self._tolerance.raise_or_count(error, counts=counts)
        elif not judgement.parsed:
            self._tolerance.count({"math/unparsed": 1})
