"""Rows of the data that a reward cannot judge: refused, left out or kept, as ``reward.on_bad_answer`` says."""

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from dqo.errors import ConfigError

log = logging.getLogger(__name__)

OnBadAnswer = Annotated[Literal["raise", "skip", "mask"], Field(examples=["skip"])]
Rows = Sequence[tuple[str, Mapping[str, Any]]]  # where each row comes from, and its columns


def check_column(rows: Rows, column: str, key: str) -> None:
    """Raises ConfigError if no row has the column that ``key`` names."""
    if rows and not any(column in columns for _, columns in rows):
        raise no_column(column, rows[0][1], key)


def no_column(name: str, columns: Mapping[str, Any], key: str) -> ConfigError:
    """The error for a column that is not there."""
    known = ", ".join(columns) or "none"
    typed = f"; type {key}={[*columns][-1]}" if columns else ""
    return ConfigError(f"{key}={name}: there is no such column; there are {known}{typed}")


def rows_to_leave_out(
    rows: Rows, bad: Sequence[int], on_bad_answer: OnBadAnswer, *, column: str, key: str, fault: str
) -> Sequence[int]:
    """The ``bad`` rows with ``on_bad_answer=skip``, else none. ``fault`` goes on after "is VALUE, which", ``key`` names
    the column. Raises ConfigError with ``on_bad_answer=raise``; what is tolerated is counted in the log."""
    if not bad:
        return ()
    source, columns = rows[bad[0]]
    value = "null" if (value := columns.get(column)) is None else repr(value)
    problem = f'{source}: "{column}" is {value:.80}, which {fault}'
    counted = f"{len(bad)} of {len(rows)} rows are like that"
    if on_bad_answer == "raise":
        more = ", ".join(source for source, _ in (rows[number] for number in bad[1:4]))
        raise ConfigError(
            f"{problem} ({counted}{f'; the next: {more}' if more else ''}); type reward.on_bad_answer=skip to leave "
            f"such rows out, reward.on_bad_answer=mask to ignore their completions, or {key}=NAME of another column"
        )
    done = "left out" if on_bad_answer == "skip" else "kept, and their completions ignored"
    log.warning("%s; %s and %s (reward.on_bad_answer=%s)", problem, counted, done, on_bad_answer)
    return bad if on_bad_answer == "skip" else ()
