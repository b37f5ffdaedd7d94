"""What is made equal in texts before they are embedded: letters' case, markup, white space."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import cache
from html.parser import HTMLParser

from markdown_it import MarkdownIt
from markdown_it.token import Token


class Normalize(StrEnum):
    """A difference between texts that embeddings then do not show."""

    CASE = "case"  # "Paris" is "paris" (Unicode's case folding)
    MARKUP = "markup"  # Markdown (CommonMark, tables) and HTML are left out, what they mark is kept
    SPACE = "space"  # runs of white space are one space, and none is at the ends


def normalized(text: str, steps: Sequence[Normalize]) -> str:
    """The text without the differences of ``steps``, whatever their order: markup first, which is made of white space,
    too."""
    if Normalize.MARKUP in steps:
        text = without_markup(text)
    if Normalize.CASE in steps:
        text = text.casefold()
    if Normalize.SPACE in steps:
        text = " ".join(text.split())
    return text


def without_markup(text: str) -> str:
    """What Markdown and HTML mark: text, code, the words of links and the descriptions of pictures. Blocks are
    separated by line breaks. Numbers of ordered lists are markup."""
    return "\n".join(block for block in _blocks(_parser().parse(text)) if block)


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            html = "".join(_inline(token.children or []))
            yield html.strip()
        elif token.type in ("fence", "code_block"):
            yield token.content.strip("\n")
        elif token.type == "html_block":
            yield _text_of_html(token.content).strip()


def _inline(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):
            yield "\n"
        elif token.type == "image":
            yield from _inline(token.children or [])
        elif token.type != "html_inline":  # a tag; what is between two is text
            yield token.content


def _text_of_html(html: str) -> str:
    reader = _Text()
    reader.feed(html)
    reader.close()
    return "".join(reader.parts)


class _Text(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
