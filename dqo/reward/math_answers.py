"""Right or wrong by mathematical equality (math-verify), in a process that can be killed."""

import math
from dataclasses import dataclass

import torch

from dqo.errors import ConfigError, StageError
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.sandbox.process import Kind, Sandbox, SandboxError
from dqo.reward.scoring.tolerance import Tolerance, check_seconds
from dqo.reward.scoring.totals import counted, total
from dqo.stages import Task

JUDGE = "dqo.reward.sandbox.verify_math:judge"
MEMORY = 4 << 30  # bytes: an answer of 10^(10^10) must not take the machine's


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    correct: bool = False
    parsed: bool = True
    failure: SandboxError | None = None


class Math:
    """1.0 where the completion's answer equals the one in ``answer_column``, else 0.0.

    A completion without an answer is wrong, and counted. One that math-verify hangs or crashes on is ``on_error``'s. A
    truncated and masked one is not judged, its part is NaN.
    """

    def __init__(
        self, task: Task, *, answer_column: str, timeout: float, on_error: str, mask_truncated_completions: bool
    ):
        """``timeout``: seconds a completion. Raises ConfigError if the task's first prompt has no such column."""
        self._column, self._mask_truncated = answer_column, mask_truncated_completions
        self._tolerance = Tolerance(on_error)
        check_seconds("reward.timeout", timeout)
        prompts, _ = task.draw(0, 1)
        if answer_column not in prompts[0].columns:
            known = ", ".join(prompts[0].columns) or "none"
            raise ConfigError(f"reward.answer_column={answer_column}: there is no such column; there are {known}")
        self._sandbox = Sandbox(timeout=timeout, setup=(JUDGE, {"answer": "$1$", "text": "$1$"}), memory_limit=MEMORY)
        self._sandbox.start()

    def score(self, rollouts: Rollouts) -> Rewards:
        """One part, ``math``. Raises StageError, always so for an answer of the data that cannot be parsed."""
        valid_PK = counted(rollouts, mask_truncated_completions=self._mask_truncated)
        judged: dict[tuple[str, str], _Judgement] = {}  # a collapsed group repeats its texts
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
        """``math/errors``, ``math/timeouts``, ``math/unparsed`` in completions; ``math/restarts`` of the process."""
        counts = dict.fromkeys(("math/errors", "math/timeouts", "math/unparsed"), 0)
        return counts | self._tolerance.counters() | {"math/restarts": self._sandbox.restarts}

    def close(self) -> None:
        """End the process."""
        self._sandbox.close()

    def _answer(self, prompt: Prompt) -> str:
        answer = prompt.columns.get(self._column)
        if isinstance(answer, bool) or not isinstance(answer, str | int | float):
            problem = f"column {self._column} holds {answer!r}, the right answer as text or a number is needed"
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
            self._tolerance.meet(error, counts=counts)
        elif not judgement.parsed:
            self._tolerance.count({"math/unparsed": 1})
