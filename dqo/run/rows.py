"""Rows that the reward cannot judge are found before the first step, not when they are drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

from dqo import distributed
from dqo.config.schema import Config
from dqo.config.typed import arguments, nodes
from dqo.errors import ConfigError
from dqo.row_checks import ChecksRows, HasRows
from dqo.run.build import of_the_part
from dqo.stages import Task


def check_rows(config: Config, task: Task) -> None:
    """Leave out the rows that the reward, or a part of a weighted reward, cannot judge. Rank 0 reads the rows and tells
    the other ranks: a collective. Raises ConfigError for rows that the reward refuses."""
    found = distributed.broadcast(_bad_rows(config, task) if distributed.is_rank_0() else None)
    if isinstance(found, str):
        raise ConfigError(found)
    if not found:
        return
    if not isinstance(task, HasRows):
        raise ConfigError(
            f"reward.on_bad_answer=skip: {type(task).__name__} cannot leave rows out, since it lacks leave_out "
            "(dqo.row_checks.HasRows); type reward.on_bad_answer=mask"
        )
    task.leave_out(found)


def _bad_rows(config: Config, task: Task) -> set[int] | str:
    """Indices of the rows to leave out, or the message of a refusal."""
    bad: set[int] = set()
    rows = None
    for key, node in nodes(config.reward, "reward"):
        cls, settings = arguments(node, key)
        if not isinstance(cls, ChecksRows):  # the class itself has the method
            continue
        rows = _rows(task) if rows is None else rows
        try:
            bad |= {*cls.bad_rows(rows, **settings)}
        except ConfigError as error:
            return str(of_the_part(error, key, node))
    return bad


def _rows(task: Task) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """All rows of a task that has them; of another one the held-out prompts, which are all that can be listed."""
    if isinstance(task, HasRows):
        return task.rows()
    return [(f"held-out prompt {prompt.position}", prompt.columns) for prompt in task.held_out()]
