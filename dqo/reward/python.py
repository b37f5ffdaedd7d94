"""Reward functions of the user, with TRL's signature, in processes that can be killed."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from dqo.errors import ConfigError
from dqo.ranges import Seconds
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.tolerance import OnError, Tolerance
from dqo.reward.scoring.totals import judged_mask, total
from dqo.reward.scoring.user_function import HIDDEN, UserFunction
from dqo.sandbox.sandbox import Sandbox
from dqo.stages import Task

EXAMPLE = "type reward.function=my_module.score or reward.function=path/to/file.py:score"


class Python:
    """Weighted sum of functions ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``.

    A function is called once per record of rollouts, with complete groups in order: rows p*k to p*k + k - 1 are the k
    completions of prompt p. As in TRL, prompts and columns are repeated for each completion, completions of chat
    prompts are ``[{"role": "assistant", "content": text}]``, None means that the function does not apply to the row,
    and coroutines are awaited. Unlike in TRL, a function gets only arguments that it has parameters for, and never
    ``trainer_state``, ``log_extra`` or ``log_metric``.

    Each function runs in its own process (``sandbox``) and keeps its state until that process is restarted, which
    happens after a timeout or a crash. It may import torch.
    """

    def __init__(
        self,
        task: Task,
        *,
        function: str | list[str],
        reward_weights: list[float] | None,
        correct_above: Annotated[float | None, Field(examples=[0.5])],
        timeout: Seconds,
        start_timeout: Seconds,
        memory_gb: Annotated[float | None, Field(gt=0, examples=[16])],
        on_error: OnError,
        mask_truncated_completions: bool,
    ):
        """Import the functions. Raises ConfigError if an import fails, or if a function needs an argument that the
        task's first prompt has no column for."""
        paths = list(function) if isinstance(function, list) else [function]
        weights = [1.0] * len(paths) if reward_weights is None else reward_weights
        _check(paths, weights)
        memory = None if memory_gb is None else int(memory_gb * 1e9)
        self._tolerance = Tolerance(on_error)
        self._correct_above, self._mask_truncated = correct_above, mask_truncated_completions
        names = _names(paths)
        self.part_weights = dict(zip(names, weights, strict=True))
        self._functions: list[UserFunction] = []
        prompts = task.held_out()[:1]  # a task may have no others
        for name, path in zip(names, paths, strict=True):
            setup = ("dqo.reward.sandbox.call_function:describe", {"path": path})
            sandbox = Sandbox(timeout=timeout, start_timeout=start_timeout, setup=setup, memory_limit=memory)
            self._functions.append(UserFunction(name, path, sandbox, self._tolerance, prompts[0]))

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part per function, (P, k), NaN where it returned None; a row where all returned None is
        invalid.

        Raises StageError if a function fails and ``on_error=raise``, or if the sum is not a finite float32. Judge
        threads call this concurrently; thread-safe, since each function's process makes one call at a time. Not a
        collective.
        """
        arguments = _arguments(rollouts)
        judged_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        valid_PK, parts = judged_PK, {}
        for function in self._functions:
            parts[function.name], failed_PK = function(rollouts, arguments, judged_PK)
            if self._tolerance.masks:
                valid_PK = valid_PK & ~failed_PK
        total_PK, valid_PK = total(rollouts, parts, self.part_weights, valid_PK)
        correct_PK = None if self._correct_above is None else (total_PK > self._correct_above) & valid_PK
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """Totals since the start: ``<name>/errors`` and ``<name>/timeouts`` count completions, ``<name>/restarts``
        restarts of the function's process. Thread-safe; not a collective."""
        counts = {f"{f.name}/{what}": 0 for f in self._functions for what in ("errors", "timeouts")}
        return counts | self._tolerance.counters() | {f"{f.name}/restarts": f.sandbox.restarts for f in self._functions}

    def close(self) -> None:
        """End the functions' processes; a running call of ``score`` then fails."""
        for function in self._functions:
            function.sandbox.close()


def _check(paths: Sequence[str], weights: Sequence[float]) -> None:
    if not paths:
        raise ConfigError(f"reward.function=[]: a function is needed; {EXAMPLE}")
    for path in paths:
        module, _, name = path.rpartition(":" if ":" in path else ".")
        if not module or not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"reward.function={path}: a module and a function are needed; {EXAMPLE}")
        if paths.count(path) > 1:
            raise ConfigError(f"reward.function names {path} twice; give it twice the weight in reward.reward_weights")
    if len(weights) != len(paths):
        raise ConfigError(
            f"reward.reward_weights has {len(weights)} numbers for {len(paths)} functions; "
            f"type reward.reward_weights=[{','.join(['1.0'] * len(paths))}]"
        )


def _names(paths: Sequence[str]) -> list[str]:
    """One distinct name per function: ``function``; if two are equal ``module.function``; else the whole path."""
    words = [path.replace(".py:", ".").replace("/", ".").split(".") for path in paths]
    for length in (1, 2):
        names = [".".join(word[-length:]) for word in words]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _arguments(rollouts: Rollouts) -> dict[str, list[Any]]:
    """Arguments by name: lists with one item per row, None where the prompt lacks the column (as in ``datasets``)."""
    rows = [prompt for prompt in rollouts.prompts for _ in range(rollouts.k)]
    columns = dict.fromkeys(name for prompt in rollouts.prompts for name in prompt.columns if name not in HIDDEN)
    arguments: dict[str, list[Any]] = {name: [prompt.columns.get(name) for prompt in rows] for name in columns}
    arguments |= {"prompts": [], "completions": [], "completion_ids": []}
    for prompt, text, tokens_T, length in zip(
        rows, rollouts.texts, rollouts.tokens_BT, rollouts.lengths_B.tolist(), strict=True
    ):
        if isinstance(prompt.content, str):
            arguments["prompts"].append(prompt.content)
            arguments["completions"].append(text)
        else:
            arguments["prompts"].append([dict(message) for message in prompt.content])
            arguments["completions"].append([{"role": "assistant", "content": text}])
        arguments["completion_ids"].append(tokens_T[len(prompt.tokens) : length].tolist())
    return arguments
