"""Error messages of a command: one line on stderr."""

import os
import sys
from pathlib import Path

from dqo.observe.visible import visible

LONGEST = 1500  # characters; a message may quote a field's name, or an exception of the user's
END = 400  # of them the last, which say what to type
TOLD = "DQO_REPORTED"  # environment variable: a file that gets the messages as well, for the table of a sweep


def report(command: str, text: str) -> None:
    """Print ``dqo-COMMAND: TEXT`` on stderr, in one line."""
    line = f"dqo-{command}: {one_line(text)}"
    sys.stderr.write(f"{line}\n")  # at once: with PYTHONUNBUFFERED, print writes the line's end apart
    if file := os.environ.get(TOLD):
        with Path(file).open("a", encoding="utf-8", errors="replace") as told:
            told.write(f"{line}\n")


def one_line(text: str) -> str:
    """The text without line breaks and control characters, cut in the middle if it is longer than ``LONGEST``."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - END]} … {line[-END:]}"
