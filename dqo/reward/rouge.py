"""``reward=rouge``: how many words a completion shares with a reference text of its row."""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field

from dqo.errors import StageError
from dqo.metrics.rouge import rouge_l, rouge_n, rouge_words
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.scoring.bad_rows import OnBadAnswer, check_column, no_column, rows_to_leave_out
from dqo.reward.scoring.of_text import one_part
from dqo.reward.scoring.tolerance import Tolerance
from dqo.stages import Task

KEY = "reward.reference_column"
UNJUDGED = "rouge/bad_answers"


class Variant(StrEnum):
    """What two texts have to share."""

    ROUGE_L = "rouge_l"  # the longest common subsequence of words
    ROUGE_1 = "rouge_1"  # words
    ROUGE_2 = "rouge_2"  # pairs of neighbouring words


SCORES: dict[Variant, Callable[[Sequence[str], Sequence[str]], float]] = {
    Variant.ROUGE_L: rouge_l,
    Variant.ROUGE_1: lambda split, other: rouge_n(split, other, 1),
    Variant.ROUGE_2: lambda split, other: rouge_n(split, other, 2),
}


class Rouge:
    """The F-measure with the most similar of the row's references: 0 to 1; 0 for a completion without a word."""

    def __init__(
        self,
        task: Task,
        *,
        variant: Variant,
        reference_column: str,
        on_bad_answer: OnBadAnswer,
        correct_above: Annotated[float | None, Field(examples=["0.3"])],
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError if the task's first prompt lacks the column."""
        self._variant, self._column, self._masks = variant, reference_column, on_bad_answer == "mask"
        self._tolerance = Tolerance("mask" if self._masks else "raise")
        self._settings: dict[str, Any] = {
            "correct_above": correct_above, "mask_truncated_completions": mask_truncated_completions
        }  # fmt: skip
        columns = task.held_out()[0].columns
        if reference_column not in columns:
            raise no_column(reference_column, columns, KEY)

    @classmethod
    def bad_rows(
        cls,
        rows: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        reference_column: str,
        on_bad_answer: OnBadAnswer,
        **others: Any,
    ) -> Sequence[int]:
        """See ``row_checks.ChecksRows``: rows without a reference that has a word."""
        check_column(rows, reference_column, KEY)
        bad = [n for n, (_, columns) in enumerate(rows) if not _references(columns.get(reference_column))]
        fault = "has no word to compare with"
        return rows_to_leave_out(rows, bad, on_bad_answer, column=reference_column, key=KEY, fault=fault)

    def explained(self, prompts: Sequence[Prompt]) -> Sequence[str]:
        """See ``row_checks.Explaining``: the first prompt's references."""
        references = _references(prompts[0].columns.get(self._column)) if prompts else []
        return [f"reference {' '.join(words)!r:.80}" for words in references[:3]]

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, by the variant's name. Raises StageError for a row without references, unless
        ``on_bad_answer=mask``. Pure but for its counter: judge threads may call this. Not a collective."""
        references = [self._checked(prompt) for prompt in rollouts.prompts]
        return one_part(
            rollouts, self._variant, lambda row: self._score(rollouts.texts[row], references[row // rollouts.k]),
            **self._settings,
        )  # fmt: skip

    def counters(self) -> dict[str, int]:
        """With ``on_bad_answer=mask`` the completions that were ignored since their row has no reference."""
        return ({UNJUDGED: 0} if self._masks else {}) | self._tolerance.counters()

    def _checked(self, prompt: Prompt) -> list[list[str]]:
        if not (references := _references(prompt.columns.get(self._column))) and not self._masks:
            value = prompt.columns.get(self._column)
            problem = f"column {self._column}: {value!r:.80} has no word to compare with"
            advice = "type reward.on_bad_answer=mask to ignore the completions of such rows"
            raise StageError("reward", f"{problem}; {advice}", positions=[prompt.position])
        return references

    def _score(self, text: str, references: Sequence[Sequence[str]]) -> float:
        if not references:
            self._tolerance.count({UNJUDGED: 1})
            return math.nan
        split = rouge_words(text)
        return max(SCORES[self._variant](split, reference) for reference in references)


def _references(value: Any) -> list[list[str]]:
    """The words of each reference: of a text, or of the texts of a list; those without a word are left out."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else []
    return [words for words in (rouge_words(text) for text in texts if isinstance(text, str)) if words]
