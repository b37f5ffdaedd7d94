"""``reward=judge``: a language model behind an OpenAI-compatible endpoint scores each completion by a rubric."""

import hashlib
import json
import math
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from dqo.chat import Chat, Endpoint
from dqo.errors import ConfigError, StageError
from dqo.files.answers_file import AnswersFile
from dqo.ranges import Count
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.tolerance import OnError, Tolerance
from dqo.reward.scoring.totals import judged_mask, total
from dqo.reward.services.rubric import Rubric
from dqo.reward.services.scores import Scale
from dqo.services import one_line
from dqo.stages import Task

PART, VARIANCE = "judge", "judge_variance"
UNREAD = "judge/unread"
MOST_CALLS = 64  # groups that are judged at a time
FOLDER = "judge_rewards"  # in ``cache_folder``

Price = Annotated[float | None, Field(ge=0, examples=["0.15"])]  # of a million tokens, in any currency


class Judge:
    """The mean of ``repeats`` scores, 0 at the lowest of ``scale`` and 1 at the highest.

    A completion without a readable score, though the judge is asked twice, is what ``on_unread`` says. Answers are kept
    in ``cache_folder``: a question that was answered is not asked again, by no run that names the same folder.
    """

    def __init__(
        self,
        task: Task,
        *,
        endpoint: Endpoint,
        rubric_file: str | None,
        scale: Annotated[list[float], Field(min_length=2, max_length=2, examples=["[1,10]"])],
        temperature: Annotated[float, Field(ge=0, le=2, examples=["0.0"])],
        repeats: Annotated[Count, Field(le=100, examples=[1])],
        price_per_million_in: Price,
        price_per_million_out: Price,
        cache_folder: str | None,
        on_unread: OnError,
        correct_above: Annotated[float | None, Field(examples=[0.5])],
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError for a rubric that cannot be used, and where the service is not there."""
        if repeats > 1 and temperature == 0:
            raise ConfigError(
                f"reward.repeats={repeats} with reward.temperature=0: the judge would say the same each time; type "
                "reward.temperature=0.7, or reward.repeats=1"
            )
        self._scale = Scale(*scale)
        self._rubric = Rubric(rubric_file, scale=(scale[0], scale[1]))
        self._rubric.check(task.held_out()[0])
        self._repeats, self._prices = repeats, (price_per_million_in, price_per_million_out)
        self._asked_by = [endpoint.model, endpoint.max_tokens, temperature, scale]
        self._tolerance, self._correct_above = Tolerance(on_unread), correct_above
        self._mask_truncated = mask_truncated_completions
        self._chat = Chat(endpoint, key="reward", temperature=temperature, tells=False)
        self._answers = AnswersFile(None if cache_folder is None else Path(cache_folder) / FOLDER)
        self._lock, self._kept = threading.Lock(), 0
        self.part_weights = {PART: 1.0}
        self.calls_at_a_time = min(endpoint.concurrency, MOST_CALLS)

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with the part ``judge``, and with ``repeats`` its variance over them (n - 1; NaN for fewer than two).

        Raises ServiceError where the service fails for good, StageError for a completion without a readable score under
        ``on_unread=raise``. Thread-safe; not a collective.
        """
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        rows = valid_PK.flatten().nonzero()[:, 0].tolist()
        questions = {row: self._question(rollouts, row) for row in rows}
        known = self._scores([*questions.values()])
        mean_B, variance_B = (torch.full((len(rollouts.texts),), math.nan, dtype=torch.float64) for _ in range(2))
        failed_B = torch.zeros(len(rollouts.texts), dtype=torch.bool)
        for row, question in questions.items():
            said = self._chat.unread.pop(question, "asked before")
            found = [self._scale.reward(score) for score in known[question] if score is not None]
            if found:
                mean_B[row] = statistics.fmean(found)
                variance_B[row] = statistics.variance(found) if len(found) > 1 else math.nan
            else:
                self._tolerate(rollouts, row, said)
                mean_B[row], failed_B[row] = self._tolerance.fill, self._tolerance.masks
        parts = {PART: mean_B.float().view_as(valid_PK)}
        if self._repeats > 1:
            parts[VARIANCE] = variance_B.float().view_as(valid_PK)
        valid_PK = valid_PK & ~failed_B.view_as(valid_PK)
        total_PK, valid_PK = total(rollouts, {PART: parts[PART]}, self.part_weights, valid_PK)
        correct_PK = None if self._correct_above is None else (total_PK > self._correct_above) & valid_PK
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int | float]:
        """Totals since the start: ``judge/requests`` answered, ``judge/tokens_read`` and ``judge/tokens_written``,
        ``judge/kept`` scores that were known, ``judge/repeated`` requests that had failed, ``judge/unread`` completions
        without a score, and with prices ``judge/cost``. Thread-safe; not a collective."""
        counts = self._chat.counts
        read, written = counts["tokens read"], counts["tokens written"]
        found = {
            "judge/requests": counts["requests"], "judge/tokens_read": read, "judge/tokens_written": written,
            "judge/kept": self._kept, "judge/repeated": self._chat.service.repeated, UNREAD: 0,
        }  # fmt: skip
        cost = sum((price or 0) * tokens / 1e6 for price, tokens in zip(self._prices, (read, written), strict=True))
        priced = {} if self._prices == (None, None) else {"judge/cost": cost}
        return found | self._tolerance.counters() | priced

    def close(self) -> None:
        """Close the connections."""
        self._chat.service.close()

    def _question(self, rollouts: Rollouts, row: int) -> str:
        prompt = rollouts.prompts[row // rollouts.k]
        return self._rubric.question(prompt, prompt.prefill + rollouts.texts[row])

    def _scores(self, questions: Sequence[str]) -> dict[str, list[float | None]]:
        """The ``repeats`` scores of each question; what is not known is asked."""
        numbers = [(question, number) for question in dict.fromkeys(questions) for number in range(self._repeats)]
        new = [each for each in numbers if self._key(*each) not in self._answers.scores]
        free = {question: [number for asked, number in new if asked == question] for question, _ in new}

        def answered(question: str, score: float | None) -> None:
            self._answers.add(self._key(question, free[question].pop()), score)

        with self._lock:
            self._kept += len(numbers) - len(new)
        self._chat.ask(
            [question for question, _ in new], read=self._scale.read, again=self._scale.again, answered=answered
        )
        scores = self._answers.scores
        return {
            question: [scores[self._key(question, number)] for number in range(self._repeats)] for question in questions
        }

    def _key(self, question: str, number: int) -> str:
        asked = json.dumps([*self._asked_by, question, number])
        return hashlib.sha256(asked.encode()).hexdigest()

    def _tolerate(self, rollouts: Rollouts, row: int, said: str) -> None:
        """Count a completion without a score, or raise."""
        problem = (
            f"reward.base_url={self._chat.endpoint.base_url} gives no score for {rollouts.texts[row]!r:.80} "
            f"({one_line(said) or 'nothing readable'}); raise reward.max_tokens, or type reward.on_unread=mask"
        )
        error = StageError("reward", problem, positions=[rollouts.prompts[row // rollouts.k].position])
        self._tolerance.raise_or_count(error, counts={UNREAD: 1})
