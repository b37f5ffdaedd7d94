"""The task's own check as the reward."""

import math

import torch

from dqo.errors import StageError
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.totals import judged_mask
from dqo.stages import Task, Verdict

MASKED = Verdict(reward=math.nan, correct=False)


class Check:
    """The verdict of ``task.check`` on each completion: its reward, and whether it is correct."""

    def __init__(self, task: Task, *, mask_truncated_completions: bool):
        """Raises ConfigError if the task has no check of its own."""
        prompts = task.held_out()[:1]  # a task may have no others
        task.check(prompts[0], "", True)
        self._task, self._mask_truncated = task, mask_truncated_completions

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``check``: (P, k) float32, NaN for a truncated and masked completion, which is not
        checked. Raises StageError if a verdict's reward is not a finite float32.

        Judge threads call this concurrently; thread-safe if ``task.check`` is. Not a collective.
        """
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        verdicts = [
            self._verdict(rollouts, row) if ok else MASKED for row, ok in enumerate(valid_PK.flatten().tolist())
        ]
        reward_PK = torch.tensor([v.reward for v in verdicts], dtype=torch.float32).view_as(valid_PK)
        correct_PK = torch.tensor([v.correct for v in verdicts]).view_as(valid_PK)
        return Rewards(
            total_PK=torch.where(valid_PK, reward_PK, 0.0),
            parts={"check": reward_PK},
            correct_PK=correct_PK,
            valid_PK=valid_PK,
        )

    def _verdict(self, rollouts: Rollouts, row: int) -> Verdict:
        prompt = rollouts.prompts[row // rollouts.k]
        verdict = self._task.check(prompt, prompt.prefill + rollouts.texts[row], bool(rollouts.finished_B[row]))
        if not abs(verdict.reward) <= torch.finfo(torch.float32).max:
            problem = f"the task's check returned {verdict.reward}, a finite number is needed"
            raise StageError("reward", problem, positions=[prompt.position])
        return verdict
