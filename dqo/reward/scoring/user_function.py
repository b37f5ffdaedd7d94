"""Calls a user's reward function in its sandbox, and turns what it returns into rewards or failures."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dqo.errors import ConfigError, StageError
from dqo.records import Prompt, Rollouts
from dqo.reward.scoring.tolerance import Tolerance
from dqo.sandbox.sandbox import Kind, Sandbox, SandboxError

GIVEN = ("prompts", "completions", "completion_ids")  # arguments that are always there
HIDDEN = ("prompt", "completion", "completion_ids")  # columns that are not passed, as in TRL
TRL_ONLY = ("trainer_state", "log_extra", "log_metric", "environments")  # arguments that TRL passes and dqo does not
SCORE = "dqo.reward.sandbox.call_function:score"
FLOAT32_MAX = torch.finfo(torch.float32).max


class UserFunction:
    """One function in one sandbox, under one ``on_error`` policy. Thread-safe: the sandbox makes one call at a time."""

    def __init__(self, name: str, path: str, sandbox: Sandbox, tolerance: Tolerance, prompt: Prompt):
        """Import the function in the sandbox. Raises ConfigError if that fails, or if the function needs an argument
        for which ``prompt`` has no column."""
        self.name, self.path, self.sandbox, self._tolerance = name, path, sandbox, tolerance
        try:
            described = sandbox.start()
        except SandboxError as error:
            raise ConfigError(f"reward.function={path}: {_import_problem(error)}") from error
        self._takes = None if described["open"] else set(described["takes"])
        columns = {name: value for name, value in prompt.columns.items() if name not in HIDDEN}
        _check_arguments(path, described["needs"], columns)
        _check_columns(path, {name: value for name, value in columns.items() if self._accepts(name)})

    def __call__(
        self, rollouts: Rollouts, arguments: Mapping[str, Sequence[Any]], valid_PK: Bool[Tensor, "prompts k"]
    ) -> tuple[Float[Tensor, "prompts k"], Bool[Tensor, "prompts k"]]:
        """The rewards (P, k), and the mask of failures. Rewards are NaN for None, for a failure under ``on_error=mask``
        and where ``valid_PK`` is False.

        The function gets complete groups; its values for completions that are not valid are ignored. Raises StageError
        for a failure under ``on_error=raise``.
        """
        nothing_PK = torch.full(valid_PK.shape, math.nan)
        if not valid_PK.any():
            return nothing_PK, torch.zeros_like(valid_PK)
        values, problem, cause = self._values(rollouts, arguments)
        bad = [isinstance(v, str) or (v is not None and not abs(v) <= FLOAT32_MAX) for v in values]
        failed_PK = torch.tensor(bad).view_as(valid_PK) & valid_PK
        if failed_PK.any():
            row = int(failed_PK.flatten().nonzero()[0])
            problem = problem or (
                f"returned {values[row]} for row {row} of {len(values)}, a finite number or None is needed"
            )
            self._raise_or_count(rollouts, failed_PK, problem, cause)
        filled = [self._tolerance.fill if b else math.nan if v is None else v for v, b in zip(values, bad, strict=True)]
        return torch.where(valid_PK, torch.tensor(filled, dtype=torch.float32).view_as(valid_PK), nothing_PK), failed_PK

    def _values(
        self, rollouts: Rollouts, arguments: Mapping[str, Sequence[Any]]
    ) -> tuple[list[float | str | None], str, SandboxError | None]:
        """One value per row, the problem and its cause. If the whole call failed, each value is the problem's text."""
        rows, problem, cause = len(rollouts.texts), "", None
        wanted = {name: column for name, column in arguments.items() if self._accepts(name)}
        try:
            values = self.sandbox.call(SCORE, path=self.path, arguments=wanted, rows=rows)
            if not isinstance(values, list):
                problem = f"returned {values}, a list of {rows} numbers or None is needed"
            elif len(values) != rows:
                count = len(values) if len(values) < rows else f"more than {rows}"
                problem = f"returned {count} values for {rows} completions"
        except SandboxError as error:
            values, problem, cause = [], f"failed on {rows} completions: {error}", error
        return [problem] * rows if problem else values, problem, cause

    def _accepts(self, name: str) -> bool:
        return self._takes is None or name in self._takes

    def _raise_or_count(self, rollouts: Rollouts, failed_PK: Tensor, problem: str, cause: SandboxError | None) -> None:
        positions = [p.position for p, bad in zip(rollouts.prompts, failed_PK.any(1).tolist(), strict=True) if bad]
        counts = {f"{self.name}/errors": int(failed_PK.sum())}
        if cause is not None and cause.kind is Kind.TIMEOUT:
            counts[f"{self.name}/timeouts"] = counts[f"{self.name}/errors"]
            problem += "; raise reward.timeout, or tolerate it with reward.on_error=mask"
        if cause is not None and cause.raised == MemoryError.__name__:
            problem += "; raise reward.memory_gb"
        error = StageError("reward", f"python function {self.path} {problem}", positions=positions)
        error.__cause__ = cause
        self._tolerance.raise_or_count(error, counts=counts)


def _import_problem(error: SandboxError) -> str:
    if error.raised == ConfigError.__name__:
        return str(error).removeprefix("ConfigError: ")
    key = "start_timeout" if error.kind is Kind.TIMEOUT else "memory_gb" if error.raised == "MemoryError" else None
    hint = "" if key is None else f"; a module that loads a model needs a larger reward.{key}"
    return f"its module cannot be imported: {error}{hint}"


def _check_arguments(path: str, needs: Sequence[str], columns: Mapping[str, Any]) -> None:
    for name in needs:
        if name in TRL_ONLY:
            raise ConfigError(
                f"reward.function={path} needs {name}, which only TRL passes; give it a default, {name}=None"
            )
        if name not in (*GIVEN, *columns):
            known = ", ".join((*GIVEN, *columns))
            raise ConfigError(f"reward.function={path} needs {name}, which no column provides; there are {known}")


def _check_columns(path: str, columns: Mapping[str, Any]) -> None:
    for name, value in columns.items():
        if name in GIVEN:
            raise ConfigError(f"reward.function={path} is given {name} already; rename that column of the data")
        try:
            json.dumps(value)
        except TypeError as error:
            raise ConfigError(
                f"reward.function={path} cannot be given the column {name}: {error}; "
                "leave it out of the function's parameters"
            ) from error
