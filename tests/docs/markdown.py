"""What the documents hold: code blocks, code spans, links."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("dqo/**/*.md")])
HELP_TEXTS = sorted(ROOT.glob("conf/hydra/help/*.yaml"))  # their commands are indented, as in Markdown
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^    +\S.*\n?)+", flags=re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
PATH_COMMENT = re.compile(r"(?:# @package \S+\n)?# ([\w./-]+\.(?:py|yaml|jsonl))\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block. ``language`` is "" for an indented one; ``line`` is the document's, from 1."""

    document: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """For the ids of tests: docs/pipeline.md:66."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def path(self) -> str | None:
        """The file that the block is, where a comment at its top names it: ``# my_conf/reward/mine.yaml``."""
        found = PATH_COMMENT.match(self.text)
        return found[1] if found else None


def blocks(document: Path) -> list[Block]:
    """Fenced and indented code blocks in order."""
    text = document.read_text("utf-8")
    prose = FENCED.sub(blank, text)
    found = [(line_of(match) + 1, match[1], match[2]) for match in FENCED.finditer(text)]
    found += [(line_of(match), "", match[0]) for match in INDENTED.finditer(prose)]
    return [Block(document=document, line=line, language=name, text=body) for line, name, body in sorted(found)]


def spans(document: Path) -> list[tuple[int, str]]:
    """Code spans outside blocks, each with its line."""
    prose = INDENTED.sub(blank, FENCED.sub(blank, document.read_text("utf-8")))
    return [(line_of(match), match[1]) for match in SPAN.finditer(prose)]


def blank(match: re.Match) -> str:
    """As many empty lines."""
    return "\n" * match[0].count("\n")


def line_of(match: re.Match) -> int:
    return match.string.count("\n", 0, match.start()) + 1
