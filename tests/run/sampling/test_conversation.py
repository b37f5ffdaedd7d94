import os
import signal
from collections.abc import Iterator

import pytest

from dqo.errors import StageError
from dqo.run.sampling.conversation import HELP, Conversation, terminal_reader
from tests.helpers.composing import composed_sample
from tests.helpers.toy_stages import TextTask


def conversation(*lines: str | type[BaseException], shows=None) -> tuple[list[tuple[int, str]], list[str]]:
    """What was shown, as (k, prompt), and what was said, until the lines end."""
    shown, said = [], []

    def show(config, prompt) -> None:
        if shows:
            shows(prompt)
        shown.append((config.k, prompt.columns.get("text", f"held out {prompt.position}")))

    left: Iterator = iter(lines)

    def read() -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    Conversation(composed_sample(), TextTask(), show=show, say=said.append).run(read)
    assert next(left, None) is None, "it read to the end"
    return shown, said


def test_lines_are_prompts_and_next_takes_those_of_the_task():
    shown, said = conversation("Where?", "", ":next", ":next", ":next", "Why? ")
    assert shown == [(4, "Where?"), (4, "held out 0"), (4, "held out 1"), (4, "Why? ")]
    assert said == ["type a prompt, or :help", "index=2: the task holds out 2 prompts; type 0 to 1", ""]


def test_settings_hold_from_then_on_and_wrong_ones_change_nothing():
    shown, said = conversation(":k 9", "a", ":k many", ":choose 10", "b", ":choose 3", ":choose null", "c", ":k")
    assert shown == [(9, "a"), (9, "b"), (9, "c")]
    assert said[1] == "k=9" and said[2].startswith("k=many:") and said[3].startswith("choose=10: 9 completions")
    assert said[4:6] == ["choose=3", "choose=None"] and said[6].startswith("k=")
    assert all("\n" not in line for line in said)


def test_help_is_printed_and_offered():
    _, said = conversation(":help", ":frobnicate 3")
    assert said[1] == HELP and said[2].startswith(":frobnicate: there is no such command")


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_the_end_of_input_and_ctrl_c_at_the_prompt_end_it(end):
    assert conversation("a", end)[0] == [(4, "a")]


def test_ctrl_c_while_sampling_comes_back_to_the_prompt_and_so_do_errors():
    raises = iter([KeyboardInterrupt, StageError("rollout", "logits are not finite", positions=[0]), None])

    def fail(prompt) -> None:
        if error := next(raises):
            raise error

    shown, said = conversation("a", "b", "empty", "c", shows=fail)
    assert shown == [(4, "c")]
    assert said[1] == "stopped" and "logits are not finite" in said[2] and said[3].startswith("the prompt: the prompt")


def test_the_terminal_is_read_with_a_history_and_ctrl_c_is_an_exception(tmp_path, monkeypatch):
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("builtins.input", lambda shown: f"read after {shown}")
    before = signal.getsignal(signal.SIGINT)
    with terminal_reader() as read:
        assert read() == "read after > "
        readline.add_history("Where to?")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            read()
    assert signal.getsignal(signal.SIGINT) is before
    assert "Where to?" in (tmp_path / "dqo" / "sample_history").read_text()


def test_a_history_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with terminal_reader():
        pass
