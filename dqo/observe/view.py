"""Progress of a run on the console: a live view in a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType

from rich.console import Console, RenderableType
from rich.highlighter import NullHighlighter
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from dqo.evaluation import Evaluation
from dqo.observe.comparison import compared
from dqo.observe.frame import Sample, Scene, frame, plain_evaluation, plain_step
from dqo.observe.visible import VisibleFormatter
from dqo.records import Step

HISTORY = 500  # the sparklines show at most this many steps


class View:
    """Shows the steps and evaluations that it is called with; a context manager around the run.

    The first line is ``title`` and ``place``, the run's folder. With ``live=False``, in a pipe or in a dumb terminal it
    prints plain lines instead, one every ``log_every`` steps.
    """

    def __init__(
        self,
        *,
        steps: int,
        log_every: int,
        live: bool,
        title: str,
        place: str,
        console: Console | None = None,
    ):
        self.console = console or Console()
        self.live = live and self.console.is_terminal and not self.console.is_dumb_terminal
        self.log_every = log_every
        self._scene = Scene(
            title=title, place=place, steps=steps, began=time.monotonic(), metrics={}, before={}, latest={}
        )
        self._first: tuple[int, float] | None = None
        self._before: Evaluation | None = None
        self._display = Live(console=self.console, get_renderable=self._frame, refresh_per_second=4)
        self._handlers: list[tuple[logging.Logger, list[logging.Handler]]] = []  # as they were before the live view

    def __enter__(self) -> "View":
        if self.live:
            self._redirect_logs()
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._scene = replace(self._scene, doing="done" if kind is None else "stopped")
            self._display.stop()
            for logger, handlers in self._handlers:
                logger.handlers[:] = handlers

    def say(self, doing: str) -> None:
        """Show what the run does between steps. Example: ``view.say("evaluating 16 held-out prompts × 10")``."""
        self._scene = replace(self._scene, doing=doing)
        if not self.live:
            self._line(doing)

    def __call__(self, step: Step, metrics: Mapping[str, float]) -> None:
        """Show a finished step and its metrics."""
        now = time.monotonic()
        self._first = self._first or (step.number, now)
        steps, seconds = step.number - self._first[0], now - self._first[1]
        prompt, samples = _samples(step)
        self._scene = replace(
            self._scene, doing="training", step=step.number, metrics=metrics,
            pace=seconds / steps if steps else metrics["step_time"],
            history=(*self._scene.history, metrics)[-HISTORY:], prompt=prompt, samples=samples,
        )  # fmt: skip
        if not self.live and (step.number % self.log_every == 0 or step.number == self._scene.steps):
            self._line(plain_step(self._scene))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """Show an evaluation. ``number``: the step after which it was made, 0 before the first step."""
        self._before = self._before or evaluation
        self._scene = replace(
            self._scene, doing="training", before=compared(self._before, evaluation), latest=evaluation.metrics,
            latest_at=number,
        )  # fmt: skip
        if not self.live:
            self._line(plain_evaluation(number, evaluation.n, evaluation.metrics))

    def _frame(self) -> RenderableType:
        return frame(
            self._scene, width=self.console.width, now=time.monotonic(), ascii_only=self.console.options.ascii_only
        )

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def _redirect_logs(self) -> None:
        """Print log records above the frame instead of across it, until ``__exit__`` restores the handlers."""
        above = RichHandler(console=self.console, show_path=False, show_time=False, highlighter=NullHighlighter())
        above.setFormatter(VisibleFormatter("%(message)s"))
        ours = logging.getLogger("dqo")
        for logger in (logging.getLogger(), ours):
            kept = [handler for handler in logger.handlers if not _writes_to_terminal(handler)]
            self._handlers.append((logger, logger.handlers[:]))
            logger.handlers[:] = kept if kept == logger.handlers else [*kept, above]
        if not any(above in logger.handlers for logger, _ in self._handlers):
            ours.addHandler(above)


def _writes_to_terminal(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams


def _samples(step: Step) -> tuple[str, tuple[Sample, ...]]:
    """The first prompt, with its completions of the most and of the least credit."""
    experience = step.experience
    rollouts, rewards = experience.rollouts, experience.rewards
    credits = experience.credits_PK[0].tolist()
    order = sorted(range(rollouts.k), key=credits.__getitem__, reverse=True)
    return rollouts.prompts[0].text, tuple(
        Sample(
            text=rollouts.texts[i],
            reward=float(rewards.total_PK[0, i]),
            credit=credits[i],
            correct=None if rewards.correct_PK is None else bool(rewards.correct_PK[0, i]),
        )
        for i in dict.fromkeys([order[0], order[-1]])
    )
