"""Preference pairs and scored texts: read, rendered, split."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from dqo.config.schema import RewardModelling
from dqo.errors import ConfigError
from dqo.models.conversation import Encoding, judged_input
from dqo.models.folders import first_line
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.records import Prompt
from dqo.task.reading.tables import read_rows

log = logging.getLogger(__name__)

Said = tuple[Prompt, str]  # a prompt and the assistant's answer to it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two answers to one prompt, of which the first was preferred."""

    prompt: str  # tells prompts apart
    chosen: Encoding
    rejected: Encoding
    lengths: tuple[int, int]  # tokens of the two answers alone, whatever was cut of their prompt


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer and its score."""

    prompt: str
    answer: Encoding
    length: int  # tokens of the answer alone
    score: float


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Pairs, or scored texts."""

    rows: tuple[Pair | Scored, ...]

    @property
    def are_pairs(self) -> bool:
        """Whether they are preference pairs; False: scored texts."""
        return isinstance(self.rows[0], Pair)

    def split(self, share: float) -> tuple["Examples", "Examples"]:
        """Those to learn from and those held out, by the prompt's text: an answer to a held-out prompt is never learned
        from. Raises ConfigError if one side is empty."""
        held = [_fraction(row.prompt) < share for row in self.rows]
        sides = [tuple(row for row, out in zip(self.rows, held, strict=True) if out is side) for side in (False, True)]
        for side, what in zip(sides, ("left to learn from", "held out"), strict=True):
            if not side:
                prompts = len({row.prompt for row in self.rows})
                raise ConfigError(
                    f"rm.held_out={share}: of {prompts} prompts none is {what}; type "
                    f"{'' if prompts == 1 else 'rm.held_out=0.5, or '}rm.eval_path=FILE"
                )
        return Examples(rows=sides[0]), Examples(rows=sides[1])


def read_examples(
    path: str, key: str, settings: RewardModelling, tokenizer: PreTrainedTokenizerBase, *, limit: int
) -> Examples:
    """The rows of a file, rendered for the model. Pairs whose answers are equal are left out and counted.

    Raises ConfigError with the file and the row at fault. ``key``: "rm.path", to name in messages.
    """
    rows = read_rows(Path(path), key=f"{key}=FILE", splits=("train",))
    read = _Reader(settings, tokenizer, limit)
    pairs = settings.chosen_column in rows[0][1]
    if not pairs and settings.score_column not in rows[0][1]:
        raise ConfigError(
            f"{rows[0][0]}: has neither {settings.chosen_column} nor {settings.score_column}, but "
            f"{', '.join(rows[0][1])}; type rm.chosen_column=NAME rm.rejected_column=NAME, or rm.score_column=NAME"
        )
    if pairs and {settings.completion_column, settings.score_column} <= rows[0][1].keys():
        log.warning(
            "%s: has pairs (%s, %s) and scores (%s); the pairs are learned; to learn the scores take the pairs out",
            path, settings.chosen_column, settings.rejected_column, settings.score_column,
        )  # fmt: skip
    if pairs:
        found = tuple(pair for where, row in rows if (pair := read.pair(row, where)) is not None)
    else:
        found = tuple(read.scored(row, where) for where, row in rows)
    if equal := len(rows) - len(found):
        log.warning("%s: %d of %d pairs have equal answers and are left out", path, equal, len(rows))
    if not found:
        raise ConfigError(f"{path}: the answers of every pair are equal; type {key}=FILE with others")
    if read.cut:
        log.warning("%s: %d answers have more than %d tokens with their prompt, which is cut", path, read.cut, limit)
    return Examples(rows=found)


class _Reader:
    def __init__(self, settings: RewardModelling, tokenizer: PreTrainedTokenizerBase, limit: int):
        self._columns, self._tokenizer, self._limit = settings, tokenizer, limit
        self.cut = 0

    def pair(self, row: Mapping[str, Any], where: str) -> Pair | None:
        said = [self._said(row, name, where) for name in (self._columns.chosen_column, self._columns.rejected_column)]
        if said[0][0].content != said[1][0].content:
            raise ConfigError(f"{where}: chosen and rejected answer different prompts; one prompt is needed")
        if said[0] == said[1]:
            return None
        chosen, rejected = (self._rendered(prompt, answer, where) for prompt, answer in said)
        lengths = (self._length(said[0][1]), self._length(said[1][1]))
        return Pair(prompt=said[0][0].text, chosen=chosen, rejected=rejected, lengths=lengths)

    def scored(self, row: Mapping[str, Any], where: str) -> Scored:
        prompt, answer = self._said(row, self._columns.completion_column, where)
        score = _number(_value(row, self._columns.score_column, where), self._columns.score_column, where)
        tokens = self._rendered(prompt, answer, where)
        return Scored(prompt=prompt.text, answer=tokens, length=self._length(answer), score=score)

    def _said(self, row: Mapping[str, Any], column: str, where: str) -> Said:
        """Prompt and answer of one column. Messages without a prompt: the last is the answer to the others."""
        value, prompt = _value(row, column, where), row.get(self._columns.prompt_column)
        if isinstance(value, str):
            if prompt is None:
                raise ConfigError(
                    f"{where}: has no {self._columns.prompt_column}, which {column} answers; type rm.prompt_column=NAME"
                )
            return _prompt(prompt, self._columns.prompt_column, where), value
        *before, last = _messages(value, column, where)
        if last["role"] != "assistant" or (prompt is not None and before) or (prompt is None and not before):
            wanted = "one message of the assistant" if prompt is not None else "a prompt and one of the assistant"
            raise ConfigError(
                f"{where}: {column} must be {wanted}; it ends in one of {last['role']}, {len(before) + 1} in all"
            )
        return _prompt(before if prompt is None else prompt, self._columns.prompt_column, where), str(last["content"])

    def _rendered(self, prompt: Prompt, answer: str, where: str) -> Encoding:
        try:
            tokens, cut = judged_input(self._tokenizer, prompt, answer, limit=self._limit)
        except TEMPLATE_ERRORS as error:
            raise ConfigError(f"{where}: the model's chat template refuses it ({first_line(error)})") from error
        self.cut += cut
        return tokens

    def _length(self, answer: str) -> int:
        return len(self._tokenizer.tokenize(answer))


def _prompt(value: Any, column: str, where: str) -> Prompt:
    content = value if isinstance(value, str) else tuple(_messages(value, column, where))
    return Prompt(position=0, tokens=(), content=content, columns={})


def _messages(value: Any, column: str, where: str) -> Sequence[Mapping[str, Any]]:
    shaped = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0
    if not shaped or not all(
        isinstance(turn, Mapping) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str)
        for turn in value
    ):
        shown = json.dumps(value, ensure_ascii=False, default=str)[:80]
        raise ConfigError(f"{where}: {column} must be text, or messages with role and content; it is {shown}")
    return value


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    if row.get(column) is None:
        raise ConfigError(f"{where}: has no {column}; there are {', '.join(row)}")
    return row[column]


def _number(value: Any, column: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where}: {column} is {str(value)[:40]}; a number is needed")
    return number


def _fraction(text: str) -> float:
    """A number from 0 to 1 that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
