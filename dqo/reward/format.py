"""``reward=format``: whether a completion has a form, by a regular expression or by tags."""

from typing import Annotated, Any

import regex
from pydantic import Field

from dqo.errors import ConfigError, StageError
from dqo.ranges import Seconds
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.of_text import one_part
from dqo.reward.scoring.tolerance import OnError, Tolerance

TIMEOUTS = "format/timeouts"
SHOWN = 60  # characters of a text in a message


class Format:
    """1.0 for a completion that the pattern matches as a whole, else 0.0. The assistant's words at the end of the
    prompt count as its beginning."""

    def __init__(
        self,
        *,
        pattern: Annotated[str | None, Field(min_length=1, examples=["'<b>.*</b>'"])],
        tags: Annotated[list[Annotated[str, Field(pattern=r"^[\w-]+$")]] | None, Field(examples=["[think,answer]"])],
        timeout: Seconds,
        on_error: OnError,
        correct_above: Annotated[float | None, Field(examples=[0.5])],
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError unless one of ``pattern`` and ``tags`` is given, and for a pattern that is none."""
        if (pattern is None) == (not tags):
            given = "neither is" if pattern is None else "both are"
            raise ConfigError(
                f"reward.pattern and reward.tags: {given} given; type reward.tags=[think,answer], or "
                "reward.pattern='REGULAR EXPRESSION'"
            )
        if tags and len({*tags}) < len(tags):
            raise ConfigError(
                f"reward.tags=[{','.join(tags)}]: each tag is expected once; type reward.tags=[think,answer]"
            )
        try:
            self._form = regex.compile(_form_of(tags) if tags else str(pattern), regex.DOTALL)
        except regex.error as error:
            raise ConfigError(
                f"reward.pattern={pattern}: is no regular expression ({error}); type another one in single quotes"
            ) from error
        self._timeout, self._tolerance = timeout, Tolerance(on_error)
        self._settings: dict[str, Any] = {
            "correct_above": correct_above, "mask_truncated_completions": mask_truncated_completions
        }  # fmt: skip

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part, ``format``. Raises StageError where the pattern takes longer than ``timeout`` on a
        completion and ``on_error=raise``. Thread-safe. Not a collective."""
        return one_part(rollouts, "format", lambda row: self._score(rollouts, row), **self._settings)

    def counters(self) -> dict[str, int]:
        """Completions on which the pattern took longer than ``timeout``."""
        return {TIMEOUTS: 0} | self._tolerance.counters()

    def _score(self, rollouts: Rollouts, row: int) -> float:
        prompt = rollouts.prompts[row // rollouts.k]
        text = prompt.prefill + rollouts.texts[row]
        try:
            return float(self._form.fullmatch(text, timeout=self._timeout, concurrent=True) is not None)
        except TimeoutError as error:
            problem = f"the pattern takes longer than reward.timeout={self._timeout:g} s on {text[-SHOWN:]!r}"
            advice = "type a pattern without repeats of repeats, or reward.on_error=mask"
            caught = StageError("reward", f"{problem}; {advice}", positions=[prompt.position])
            caught.__cause__ = error
            self._tolerance.raise_or_count(caught, counts={TIMEOUTS: 1})
            return self._tolerance.fill


def _form_of(tags: list[str]) -> str:
    """Each tag once, in this order, with any text inside and white space alone around them."""
    every = "|".join(regex.escape(tag) for tag in tags)
    inside = f"(?:(?!</?(?:{every})>).)*+"
    return r"\s*" + r"\s*".join(f"<{regex.escape(tag)}>{inside}</{regex.escape(tag)}>" for tag in tags) + r"\s*"
