"""Where the prompts of dqo-sample come from: the command line, the task, stdin."""

import sys
from collections.abc import Iterator

from dqo.config.schema import SampleConfig
from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.row_checks import TakesText
from dqo.stages import Task

HELD_OUT = "index=0 for the first held-out prompt"


def given_prompts(config: SampleConfig, task: Task) -> Iterator[Prompt]:
    """The prompt that is typed or taken from the task; else a prompt for each line of stdin. Raises ConfigError for a
    prompt that cannot be asked, and for a stdin without one."""
    if config.prompt is not None:
        yield prompt_of(task, config.prompt, source="prompt=")
    elif config.index is not None:
        yield held_out_prompt(task, config.index)
    else:
        for number, text in _lines():
            yield prompt_of(task, text, source=f"line {number} of stdin")


def prompt_of(task: Task, text: str, *, source: str) -> Prompt:
    """A text, rendered as the task renders its own prompts."""
    if isinstance(task, TakesText):
        return task.prompt_of(text, position=0, source=source)
    raise ConfigError(f"{source}: {type(task).__name__} has no prompt_of (dqo.row_checks.TakesText); type {HELD_OUT}")


def held_out_prompt(task: Task, index: int) -> Prompt:
    """Raises ConfigError where the task holds out no prompt of that number."""
    prompts = task.held_out()
    if index >= len(prompts):
        raise ConfigError(f"index={index}: the task holds out {len(prompts)} prompts; type 0 to {len(prompts) - 1}")
    return prompts[index]


def _lines() -> Iterator[tuple[int, str]]:
    """The lines of stdin with their numbers, as they come; blank ones are left out."""
    number = found = 0
    for number, line in enumerate(sys.stdin.buffer if sys.stdin else (), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"line {number} of stdin is not UTF-8; convert it, for example with iconv") from error
        if text.strip():
            found += 1
            yield number, text
    if not found:
        raise ConfigError(f"stdin has no prompt, {number} lines; type prompt='…', or {HELD_OUT}")
