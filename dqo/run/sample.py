"""``dqo-sample``: what does a policy answer? Completions of a prompt with reward, credit and similarities."""

import contextlib
import os
import sys
from collections.abc import Iterator
from itertools import chain
from typing import TextIO, cast

import torch
from rich.console import Console
from rich.text import Text

from dqo.config.schema import SampleConfig
from dqo.config.validate import asks_terminal
from dqo.errors import ConfigError
from dqo.observe.group import as_json, as_tables
from dqo.observe.visible import visible_lines
from dqo.records import Prompt
from dqo.rollout.sampling.reusing import Redecoding
from dqo.run.build import make_collectors
from dqo.run.job import Job
from dqo.run.load_policy import prepare_policy
from dqo.run.sampling.conversation import Conversation, terminal_reader
from dqo.run.sampling.judging import sampled_group
from dqo.run.sampling.prompts import given_prompts
from dqo.run.session import close_stages
from dqo.stages import Collectors


def run(job: Job) -> None:
    """Answers the prompt of the command line or of the task, each line of stdin, or what is typed at a terminal. Writes
    no file but the history of what was typed."""
    assert isinstance(job.config, SampleConfig)
    config = job.config.model_copy(update={"warm_start": False})  # the policy as it is
    torch.manual_seed(config.seed)
    with contextlib.ExitStack() as stack:
        stdout = stack.enter_context(_stdout_alone()) if config.json_ else sys.stdout
        prepared = prepare_policy(config)
        task, prompts = prepared.task, None
        if not asks_terminal(config):
            prompts = given_prompts(config, task)
            prompts = chain([next(prompts)], prompts)  # the first is refused before the weights are read
        policy = prepared.load()
        stages = make_collectors(config, policy, task, exact_logprobs=False)
        close_stages(stages, stack)
        rows = cast(int, policy.model.get_input_embeddings().num_embeddings)
        show = Showing(stages, Console(file=stdout, highlight=False), rows=rows, temperature=config.temperature)
        if prompts is None:
            Conversation(config, task, show=show, say=show.say).run(stack.enter_context(terminal_reader()))
            return
        for prompt in prompts:
            show(config, prompt)


class Showing:
    """Samples and prints groups; each has noise of its own."""

    def __init__(self, stages: Collectors, console: Console, *, rows: int, temperature: float):
        """``rows``: tokens that the model knows. ``temperature``: with which the rollout was built."""
        self._stages, self._rows = stages, rows
        self._console, self._count = console, 0
        self._temperature = temperature

    def __call__(self, config: SampleConfig, prompt: Prompt) -> None:
        """Prints ``config.k`` completions of a prompt. Raises ConfigError for a prompt that the model cannot read."""
        if max(prompt.tokens) >= self._rows:
            raise ConfigError("the prompt has a token for which the model has no row; remove it")
        self._set_temperature(config.temperature)
        number, self._count = self._count, self._count + 1
        group = sampled_group(self._stages, config, prompt, number=number)
        if config.json_:
            print(as_json(group), file=self._console.file, flush=True)
            return
        self._console.print(as_tables(group, self._console.width))
        self._console.print()

    def _set_temperature(self, temperature: float) -> None:
        rollout = self._stages.rollout
        if temperature == self._temperature:
            return
        if not isinstance(rollout, Redecoding):
            name, before = type(rollout).__name__, self._temperature
            raise ConfigError(f"temperature={temperature}: {name} stays at {before}; it has no set_decoding")
        rollout.set_decoding(temperature=temperature)
        self._temperature = temperature

    def say(self, text: str) -> None:
        """Print a message."""
        self._console.print(Text(visible_lines(text), "dim"), soft_wrap=True)


@contextlib.contextmanager
def _stdout_alone() -> Iterator[TextIO]:
    """What stdout was; meanwhile everything else that is printed there, by libraries too, goes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stdout:
        os.dup2(2, 1)
        try:
            yield stdout
        finally:
            sys.stdout.flush()
            os.dup2(stdout.fileno(), 1)
