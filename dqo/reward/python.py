"""The user's own reward functions, with TRL's signature, in processes that can be killed."""

import math
from collections.abc import Sequence
from typing import Any

from dqo.errors import ConfigError
from dqo.records import Rewards, Rollouts
from dqo.reward.sandbox.process import Sandbox
from dqo.reward.scoring.tolerance import Tolerance, check_seconds
from dqo.reward.scoring.totals import counted, total
from dqo.reward.scoring.user_function import HIDDEN, UserFunction
from dqo.stages import Task

EXAMPLE = "type reward.function=my_module.score or reward.function=path/to/file.py:score"


class Python:
    """Weighted sum of functions ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``.

    A function is called once per record of rollouts with whole groups in order: rows p*k to p*k + k - 1 are the k
    completions of prompt p, and a group is never split. As in TRL, prompts and columns are repeated for each
    completion, completions of conversations are ``[{"role": "assistant", "content": text}]``, None means that the
    function does not apply to the row, and coroutines are awaited. Other than in TRL a function is passed only what it
    has parameters for, and no ``trainer_state``, ``log_extra`` or ``log_metric``.

    Each function has a process of its own (``sandbox``), which keeps its state until it fails. It may import torch.
    """

    def __init__(
        self,
        task: Task,
        *,
        function: str | list[str],
        reward_weights: list[float] | None,
        correct_above: float | None,
        timeout: float,
        start_timeout: float,
        memory_gb: float | None,
        on_error: str,
        mask_truncated_completions: bool,
    ):
        """Imports the functions and checks them against the columns of the task's first prompt; raises ConfigError."""
        paths = list(function) if isinstance(function, list) else [function]
        weights = [1.0] * len(paths) if reward_weights is None else reward_weights
        _check(paths, weights, correct_above)
        check_seconds("reward.timeout", timeout)
        check_seconds("reward.start_timeout", start_timeout)
        if memory_gb is not None and not 0 < memory_gb < math.inf:
            raise ConfigError(f"reward.memory_gb={memory_gb}: more than 0 is needed, or null; type reward.memory_gb=16")
        memory = None if memory_gb is None else int(memory_gb * 1e9)
        self._tolerance = Tolerance(on_error)
        self._correct_above, self._mask_truncated = correct_above, mask_truncated_completions
        names = _names(paths)
        self._weights = dict(zip(names, weights, strict=True))
        self._functions: list[UserFunction] = []
        prompts, _ = task.draw(0, 1)
        for name, path in zip(names, paths, strict=True):
            setup = ("dqo.reward.sandbox.call_function:describe", {"path": path})
            sandbox = Sandbox(timeout=timeout, start_timeout=start_timeout, setup=setup, memory_limit=memory)
            self._functions.append(UserFunction(name, path, sandbox, self._tolerance, prompts[0]))

    def score(self, rollouts: Rollouts) -> Rewards:
        """Parts by function name; rows for which every function says None are invalid. Raises StageError."""
        arguments = _arguments(rollouts)
        judged_PK = counted(rollouts, mask_truncated_completions=self._mask_truncated)
        valid_PK, parts = judged_PK, {}
        for function in self._functions:
            parts[function.name], failed_PK = function(rollouts, arguments, judged_PK)
            if self._tolerance.masks:
                valid_PK = valid_PK & ~failed_PK
        total_PK, valid_PK = total(rollouts, parts, self._weights, valid_PK)
        correct_PK = None if self._correct_above is None else (total_PK > self._correct_above) & valid_PK
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """``<name>/errors`` and ``<name>/timeouts`` in completions, ``<name>/restarts`` of its process."""
        counts = {f"{f.name}/{what}": 0 for f in self._functions for what in ("errors", "timeouts")}
        return counts | self._tolerance.counters() | {f"{f.name}/restarts": f.sandbox.restarts for f in self._functions}

    def close(self) -> None:
        """End the functions' processes."""
        for function in self._functions:
            function.sandbox.close()


def _check(paths: Sequence[str], weights: Sequence[float], correct_above: float | None) -> None:
    if not paths:
        raise ConfigError(f"reward.function=[]: a function is needed; {EXAMPLE}")
    for path in paths:
        if not isinstance(path, str):  # the YAML key has two types, which OmegaConf cannot check
            raise ConfigError(f"reward.function={path}: text is needed; {EXAMPLE}")
        module, _, name = path.rpartition(":" if ":" in path else ".")
        if not module or not name.isidentifier():
            raise ConfigError(f"reward.function={path}: a module and a function are needed; {EXAMPLE}")
        if paths.count(path) > 1:
            raise ConfigError(f"reward.function names {path} twice; give it twice the weight in reward.reward_weights")
    if len(weights) != len(paths):
        raise ConfigError(
            f"reward.reward_weights has {len(weights)} numbers for {len(paths)} functions; "
            f"type reward.reward_weights=[{','.join(['1.0'] * len(paths))}]"
        )
    if not all(map(math.isfinite, weights)):
        raise ConfigError(f"reward.reward_weights={list(weights)}: finite numbers are needed")
    if correct_above is not None and not math.isfinite(correct_above):
        raise ConfigError(
            f"reward.correct_above={correct_above}: a finite number is needed; type reward.correct_above=0.5"
        )


def _names(paths: Sequence[str]) -> list[str]:
    """The functions' own names; where two share one, the module's before it; at last the whole paths."""
    words = [path.replace(".py:", ".").replace("/", ".").split(".") for path in paths]
    for length in (1, 2):
        names = [".".join(word[-length:]) for word in words]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _arguments(rollouts: Rollouts) -> dict[str, list[Any]]:
    """One list a name, one item a row. A column that a prompt lacks is None there, as in Hugging Face's data sets."""
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
