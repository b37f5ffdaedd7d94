"""Where a text has its answer: in boxes, after "the answer is", in maths between dollars."""

import re
from dataclasses import dataclass
from functools import reduce

BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
BARE = re.compile(r"-?(?:\d[\d.,/]*|\\frac(?:\{-?\d+\}\{\d+\}|\d\d))")  # what a box without braces may hold
BETWEEN = re.compile(  # what may stand between two answers of a list
    r"[\s$*]*(?:\\[)\]])?[\s$*,;]*(?:and|or|&|\\text\{[ ,]*(?:and|or) *\}|)[\s$*]*(?:\\[(\[])?[\s$*]*"
)
SEGMENT = re.compile(
    r"(?<!\\)\$\$(.+?)(?<!\\)\$\$|(?<!\\)\$(?!\$)([^$\n]+?)(?<!\\)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)", re.DOTALL
)
MARKER = re.compile(
    r"(?:####|(?i:\banswer\b(?:\s+(?:to|for|of)\b[^.\n:]{0,60})?\**\s*(?:is|are|was|:|=)+\**:?))[\s*:]*"
)
SENTENCE_END = re.compile(r"[.!?]\**(?=\s+[A-Z*]|\s*$)|\s{2,}|(?<=\d),?\s+(?:because|since|so|which|where|as|I hope)\b")
PUNCTUATION = re.compile(r"(?:[\s,;:]|(?<!\.)\.|\\\\)+$")
QUOTES = (("**", "**"), ("$$", "$$"), ("$", "$"), ("`", "`"), ('"', '"'), ("'", "'"), (r"\(", r"\)"), (r"\[", r"\]"))
COMMANDS = ("", r"\boxed", r"\fbox")  # whose braces around a whole answer say nothing
NUMBER_IN_TEXT = re.compile(r"\\text\{(\s*-?\d[^{}]*)\}")
ESCAPES = (  # "\boxed" in a text with Python's or JSON's escapes is a backspace and "oxed"
    ("\x08", "\\b", re.compile(r"\x08(?=oxed|inom|egin\b|eta\b|ar\b|f\b)")),
    ("\x0c", "\\f", re.compile(r"\x0c(?=rac|box)")),
    ("\t", "\\t", re.compile(r"\t(?=ext\b|extbf\b|imes|frac|heta|an\b|o\b)")),
)
TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
# Pandoc's rule: a dollar opens maths only if the dollar that closes it follows no space and no digit follows that.
AMOUNT = re.compile(r"(?<![\\$\w])\$(?=\d)(?![^$\n]*[^$\s\\]\$(?!\d))|\\\$")


@dataclass(frozen=True)
class Found:
    """``last``: the answer, the content of the last box, say; ``joined``: with those that are listed before it.

    Example: ``\\boxed{3} and \\boxed{5}`` gives last "5", joined "3, 5".
    """

    last: str
    joined: str


def unescaped(text: str) -> str:
    """The text with the LaTeX commands that a careless escape has broken: form feed and "rac" is a fraction."""
    return reduce(lambda text, escape: escape[2].sub(lambda _: escape[1], text), ESCAPES, text)


def in_boxes(text: str) -> Found | None:
    """The last box that is not empty, None if there is none. The content of a box that is not closed is empty: the text
    was cut, and more might have followed."""
    spans: list[tuple[int, int, str]] = []
    for box in BOX.finditer(text):
        if spans and box.start() < spans[-1][1]:  # a box in a box
            continue
        if text[box.end() : box.end() + 1] == "{":
            end = closing(text, box.end())
            if end is None:
                return Found("", "")
            spans.append((box.start(), end + 1, text[box.end() + 1 : end]))
        elif bare := BARE.match(text, box.end()):
            spans.append((box.start(), bare.end(), bare[0]))
    return _listed(text, [span for span in spans if span[2].strip()])


def in_maths(text: str) -> Found | None:
    r"""The last formula between dollars, ``\(`` and ``\)`` or ``\[`` and ``\]``; amounts of dollars are none."""
    segments = SEGMENT.finditer(without_amounts(text))
    spans = [(s.start(), s.end(), next(group for group in s.groups() if group)) for s in segments]
    return _listed(without_amounts(text), spans)


def formulas(text: str) -> tuple[list[str], str]:
    r"""All formulas between dollars, ``\(`` and ``\)`` or ``\[`` and ``\]``, and the text without them."""
    text = without_amounts(text)
    segments = list(SEGMENT.finditer(text))
    inside = [next(group for group in segment.groups() if group) for segment in segments]
    starts, ends = [0, *(s.end() for s in segments)], [*(s.start() for s in segments), len(text)]
    return inside, " ; ".join(text[start:end] for start, end in zip(starts, ends, strict=True))


def after_marker(text: str) -> str | None:
    """What follows the last "####" or "answer is", to the end of its sentence."""
    markers = list(MARKER.finditer(text))
    if not markers:
        return None
    line = text[markers[-1].end() :].partition("\n")[0]
    return SENTENCE_END.split(line.strip(), maxsplit=1)[0].strip() or None


def in_tags(text: str) -> str | None:
    """What the last <answer> and </answer> enclose."""
    contents = TAGS.findall(text)
    return contents[-1] if contents else None


def without_amounts(text: str) -> str:
    """The text with the dollar sign of each amount ("$12") removed; the dollar signs that remain enclose formulas."""
    return AMOUNT.sub("", text)


def closing(text: str, opening: int) -> int | None:
    """The index of the brace that closes the one at ``opening``; None if the text ends before it."""
    depth, i = 0, opening
    while i < len(text):
        if text[i] == "\\":
            i += 1  # \{ is no brace
        elif text[i] in "{}":
            depth += 1 if text[i] == "{" else -1
            if not depth:
                return i
        i += 1
    return None


def unwrapped(text: str) -> str:
    """The text without quotes, dollars, braces and boxes around the whole of it, and without punctuation at its end."""
    while True:
        before, text = text, PUNCTUATION.sub("", text.strip())
        for left, right in QUOTES:
            inner = text[len(left) : -len(right)]
            if (
                text.startswith(left)
                and text.endswith(right)
                and inner.strip()
                and left not in inner.replace(r"\$", "")
            ):
                text = inner
        for command in COMMANDS:
            if text.startswith(f"{command}{{") and closing(text, len(command)) == len(text) - 1:
                text = text[len(command) + 1 : -1]
        if match := NUMBER_IN_TEXT.fullmatch(text):
            text = match[1]
        if text == before:
            return text


def _listed(text: str, spans: list[tuple[int, int, str]]) -> Found | None:
    """The last content, and those before it that only a comma or a word such as "and" separates from the next."""
    if not spans:
        return None
    contents = [spans[-1][2]]
    for before, after in zip(spans[-2::-1], spans[:0:-1], strict=True):
        between = text[before[1] : after[0]]
        if not BETWEEN.fullmatch(between) or before[2] == after[2]:
            break
        contents.insert(0, before[2])
    return Found(contents[-1], ", ".join(contents))
