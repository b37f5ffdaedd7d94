"""The exceptions that a user sees as one line. Any other exception is a bug in dqo and keeps its traceback."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """A mistake in the configuration or in the user's files, found before the work starts. The message is one line:
    what was given, what is allowed, which key to type.

    Example: ``ConfigError("k=1: diversity needs at least 2 completions of a prompt; type k=2 or more, or alpha=0")``.
    """


class StageError(RuntimeError):
    """A stage failed while the run was going on; raised ``from`` the exception that caused it.

    Example: ``StageError("reward", "python function my_module.score returned 3 values for 4 completions",
    positions=[17], step=3)``.
    """

    def __init__(self, stage: str, message: str, *, positions: Sequence[int] = (), step: int | None = None):
        """``positions``: indices of the prompts in the task's stream; ``step`` counts from 1."""
        self.stage, self.message, self.positions, self.step = stage, message, tuple(positions), step
        where = stage if step is None else f"{stage}, step {step}"
        if positions:
            where += f", prompts {', '.join(map(str, positions))}"
        super().__init__(f"[{where}] {message}")


class ServiceError(StageError):
    """A service that a stage asks is down, fails or refuses: its cause is outside the run and may be gone next time, so
    the run ends with a checkpoint of the last finished step."""
