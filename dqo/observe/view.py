"""What a person watches: a live view in a terminal, one line a step without one."""

import logging
import sys
import time
from dataclasses import replace
from types import TracebackType

from rich.console import Console, RenderableType
from rich.highlighter import NullHighlighter
from rich.live import Live
from rich.logging import RichHandler
from rich.text import Text

from dqo.evaluation import Evaluation
from dqo.metrics.training import describe
from dqo.observe.frame import Sample, Scene, frame, plain_evaluation, plain_step
from dqo.observe.text import prompt_text
from dqo.observe.visible import VisibleFormatter
from dqo.records import Step

REMEMBERED = 500  # steps behind the small curves


class View:
    """An observer, and a context manager around the run. ``title`` and ``place`` (the run's folder) head the view.

    ``live=False``, a pipe or a dumb terminal give plain lines, one every ``log_every`` steps.
    """

    def __init__(
        self,
        *,
        steps: int,
        alpha: float,
        log_every: int,
        live: bool,
        title: str,
        place: str,
        console: Console | None = None,
    ):
        self.console = console or Console()
        self.live = live and self.console.is_terminal and not self.console.is_dumb_terminal
        self.alpha, self.log_every = alpha, log_every
        self._scene = Scene(
            title=title, place=place, steps=steps, began=time.monotonic(), metrics={}, before={}, latest={}
        )
        self._first: tuple[int, float] | None = None
        self._display = Live(console=self.console, get_renderable=self._frame, refresh_per_second=4)
        self._replaced: list[tuple[logging.Logger, list[logging.Handler]]] = []

    def __enter__(self) -> "View":
        if self.live:
            self._take_logs()
            self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._scene = replace(self._scene, doing="done" if kind is None else "stopped")
            self._display.stop()
            for logger, handlers in self._replaced:
                logger.handlers[:] = handlers

    def say(self, doing: str) -> None:
        """What goes on between steps. Example: ``view.say("evaluating 16 held-out prompts × 10")``."""
        self._scene = replace(self._scene, doing=doing)
        if not self.live:
            self._line(doing)

    def __call__(self, step: Step) -> None:
        metrics = describe(step, self.alpha)
        now = time.monotonic()
        self._first = self._first or (step.number, now)
        steps, seconds = step.number - self._first[0], now - self._first[1]
        prompt, samples = _sampled(step)
        self._scene = replace(
            self._scene, doing="training", step=step.number, metrics=metrics,
            pace=seconds / steps if steps else metrics["step_time"],
            history=(*self._scene.history, metrics)[-REMEMBERED:], prompt=prompt, samples=samples,
        )  # fmt: skip
        if not self.live and (step.number % self.log_every == 0 or step.number == self._scene.steps):
            self._line(plain_step(self._scene))

    def evaluated(self, number: int, evaluation: Evaluation) -> None:
        """``number`` is the step after which it was measured; 0 before the first."""
        before = self._scene.before or evaluation.metrics
        self._scene = replace(self._scene, doing="training", before=before, latest=evaluation.metrics, latest_at=number)
        if not self.live:
            self._line(plain_evaluation(number, evaluation.n, evaluation.metrics))

    def _frame(self) -> RenderableType:
        return frame(
            self._scene, width=self.console.width, now=time.monotonic(), ascii_only=self.console.options.ascii_only
        )

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)

    def _take_logs(self) -> None:
        """Records that handlers would write across the frame go above it; the handlers come back at the end."""
        above = RichHandler(console=self.console, show_path=False, show_time=False, highlighter=NullHighlighter())
        above.setFormatter(VisibleFormatter("%(message)s"))
        ours = logging.getLogger("dqo")
        for logger in (logging.getLogger(), ours):
            kept = [handler for handler in logger.handlers if not _writes_to_terminal(handler)]
            self._replaced.append((logger, logger.handlers[:]))
            logger.handlers[:] = kept if kept == logger.handlers else [*kept, above]
        if not any(above in logger.handlers for logger, _ in self._replaced):
            ours.addHandler(above)


def _writes_to_terminal(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams


def _sampled(step: Step) -> tuple[str, tuple[Sample, ...]]:
    """Of the first prompt, the completion with the most credit and the one with the least."""
    experience = step.experience
    rollouts, rewards = experience.rollouts, experience.rewards
    credits = experience.credits_PK[0].tolist()
    order = sorted(range(rollouts.k), key=credits.__getitem__, reverse=True)
    return prompt_text(rollouts.prompts[0]), tuple(
        Sample(
            text=rollouts.texts[i],
            reward=float(rewards.total_PK[0, i]),
            credit=credits[i],
            correct=None if rewards.correct_PK is None else bool(rewards.correct_PK[0, i]),
        )
        for i in dict.fromkeys([order[0], order[-1]])
    )
