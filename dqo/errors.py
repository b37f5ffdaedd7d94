"""The two errors a user meets. Everything else is a bug of ours and shows its traceback."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """The user's mistake, found before any work: says what was got, what is allowed and which key to type.

    Raise it with one line: ``ConfigError("k=1 leaves nobody to differ from; type k=2 or more, or alpha=0")``.
    """


class StageError(RuntimeError):
    """A stage failed while running; raised ``from`` the cause.

    Example: ``StageError("reward", "python function my_module.score returned 3 values for 4 completions",
    positions=[17], step=3)``.
    """

    def __init__(self, stage: str, message: str, *, positions: Sequence[int] = (), step: int | None = None):
        """``positions`` are the prompts' positions in the task's stream; ``step`` counts from 1."""
        self.stage, self.message, self.positions, self.step = stage, message, tuple(positions), step
        where = stage if step is None else f"{stage}, step {step}"
        if positions:
            where += f", prompts {', '.join(map(str, positions))}"
        super().__init__(f"[{where}] {message}")
