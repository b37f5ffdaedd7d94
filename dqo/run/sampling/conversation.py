"""dqo-sample at a terminal: a line is a prompt, a line that begins with a colon is a command."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from dqo.config.schema import SampleConfig
from dqo.config.typed import typed_value
from dqo.config.validate import validate
from dqo.errors import ConfigError, StageError
from dqo.records import Prompt
from dqo.run.sampling.prompts import held_out_prompt, prompt_of
from dqo.stages import Task

SHOWN = "> "
KEPT = 1000  # lines of history
SETTINGS = ("k", "choose", "pick", "alpha", "temperature")
HELP = """a line is a prompt; Ctrl-C stops the sampling; Ctrl-D ends; a prompt may not begin with a colon
  :next          the task's next held-out prompt
  :k 16          completions of a prompt
  :choose 3      mark the three that are good and different; :choose null ends that
  :pick sample   choose them at random, by their probability; :pick map by greed
  :alpha 0.5     weight of difference against reward in the choice
  :temperature 0.7"""


class Conversation:
    """Reads lines until there are no more."""

    def __init__(
        self, config: SampleConfig, task: Task, *, show: Callable[[SampleConfig, Prompt], None],
        say: Callable[[str], None],
    ):  # fmt: skip
        """``show`` samples and prints."""
        self._config, self._task, self._show, self._say = config, task, show, say
        self._next = 0

    def run(self, read: Callable[[], str]) -> None:
        """``read`` returns a line, and raises EOFError or KeyboardInterrupt to end. A KeyboardInterrupt while a prompt
        is answered stops the answer alone."""
        self._say("type a prompt, or :help")
        while True:
            try:
                line = read()
            except (EOFError, KeyboardInterrupt):
                self._say("")
                return
            try:
                self._answer(line)
            except KeyboardInterrupt:
                self._say("stopped")
            except (ConfigError, StageError) as error:
                self._say(str(error))

    def _answer(self, line: str) -> None:
        name, _, value = line.strip().partition(" ")
        if not name:
            return
        if not line.startswith(":"):
            self._show(self._config, prompt_of(self._task, line, source="the prompt"))
        elif name == ":next":
            prompt, self._next = held_out_prompt(self._task, self._next), self._next + 1
            self._show(self._config, prompt)
        elif name[1:] in SETTINGS:
            self._set(name[1:], value.strip())
        else:
            self._say(HELP if name == ":help" else f"{name}: there is no such command\n{HELP}")

    def _set(self, key: str, text: str) -> None:
        values = self._config.model_dump(by_alias=True)
        config = typed_value({**values, key: None if text == "null" else text}, SampleConfig, "")
        validate(config)
        self._config = config
        self._say(f"{key}={getattr(config, key)}")


@contextlib.contextmanager
def terminal_reader() -> Iterator[Callable[[], str]]:
    """Reads lines from the terminal, with the history of earlier ones; Ctrl-C raises KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _history(Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "dqo/sample_history"):
            yield lambda: input(SHOWN)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _history(file: Path) -> Iterator[None]:
    """Lines of earlier conversations; none where Python has no readline, or the file cannot be read or written."""
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(KEPT)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
