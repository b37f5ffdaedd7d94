"""Which rows fit into the model's context."""

import logging
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.task.reading.rendering import Renderer
from dqo.task.reading.row import Row

log = logging.getLogger(__name__)


class Lengths:
    """Compares rows with the context. ``skip_long``: True leaves out the rows that are too long, False refuses them;
    None refuses them too, for a task without such a key. ``tokens``: of a row's prompt, if not the renderer's."""

    advice = "model=NAME of a model with a longer context"

    def __init__(
        self,
        renderer: Renderer,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        max_completion_length: int,
        skip_long: bool | None,
        tokens: Callable[[Row], tuple[int, ...]] | None = None,
    ):
        self._renderer, self._tokenizer, self._skip_long = renderer, tokenizer, skip_long
        self._tokens = tokens or renderer.tokens
        self._context_length, self._max_completion_length = context_length, max_completion_length
        self._room = context_length - max_completion_length

    def depends_on(self) -> list[str]:
        """What ``fits`` depends on, as texts."""
        return [*self._renderer.depends_on(), f"{self._context_length} {self._skip_long}"]

    def fitting(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that fit into the context; a warning says how many do not."""
        return counted([row for row in rows if self.fits(row)], rows, "prompts")

    def fits(self, row: Row) -> bool:
        """Whether the prompt and a completion fit into the context. Only rows that might be too long are tokenised:
        rendering 100,000 rows takes seconds, tokenising them a minute."""
        return self._renderer.most_tokens(row) <= self._room or self.prompt_fits(row, skip_long=self._skip_long)

    def prompt_fits(self, row: Row, *, skip_long: bool | None) -> bool:
        """As ``fits``, by the row's tokens. Raises ConfigError unless ``skip_long``."""
        length = len(self._tokens(row))
        if length <= self._room or skip_long:
            return length <= self._room
        left = self._context_length - length
        advice = [f"max_completion_length={left}"] if left > 0 else []
        advice += ["task.skip_long=true to leave such prompts out"] if skip_long is False else []
        advice += ["model=NAME of a model with a longer context"]
        raise ConfigError(
            f"{row.source}: the prompt has {length} tokens, with max_completion_length={self._max_completion_length} "
            f"more than the model's context of {self._context_length}; type {', or '.join(advice)}"
        )

    def answers_fit(self, row: Row) -> bool:
        """Whether the prompt with its longest example answer and an end token fits into the context."""
        end = self._renderer.end_of_turn
        longest = max(row.demonstrations, key=lambda text: len(text.encode()))
        answer = self._renderer.most_tokens_of(longest + end) + 1
        if self._renderer.most_tokens(row) + answer <= self._context_length:
            return True
        texts = [text + end for text in row.demonstrations]
        answers = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        length = len(self._tokens(row)) + max(map(len, answers)) + 1
        if length <= self._context_length or self._skip_long:
            return length <= self._context_length
        skip = "task.skip_long=true to leave such rows out, or " if self._skip_long is False else ""
        raise ConfigError(
            f"{row.source}: the prompt and its example answer have {length} tokens, more than the model's context of "
            f"{self._context_length}; type {skip}model=NAME of a model with a longer context"
        )


def counted(fitting: list[Row], rows: Sequence[Row], what: str) -> list[Row]:
    """The rows that fit; logs how many do not. Raises ConfigError if none of some does."""
    if rows and not fitting:
        raise ConfigError(f"all {what} are too long; type model=NAME of a model with a longer context")
    if len(fitting) < len(rows):
        log.warning("%d of %d %s are too long and left out", len(rows) - len(fitting), len(rows), what)
    return fitting
