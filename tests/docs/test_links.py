"""Links of the documents, the files and make targets they name: all are there."""

import pkgutil
import re
from pathlib import Path

import pytest

from tests.docs.markdown import DOCUMENTS, ROOT, blocks, spans

LINK = re.compile(r"\]\(([^)\s]*)\)")
FILE = re.compile(r"(?:dqo|conf|docs|scripts|tests|\.ci|\.github)/[\w./-]*")
MODULE = re.compile(r"\bdqo(?:\.\w+)+")
MAKE = re.compile(r"\bmake ([a-z][a-z-]*)")
HISTORY = {"log.md", "CHANGELOG.md"}  # may name what is gone
EXAMPLES = ("vendi", "conf/eval.yaml")  # what one could add (docs/development.md)
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """The headings as GitHub names them in a link."""
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_relative_links(document):
    broken = []
    for link in LINK.findall(document.read_text("utf-8")):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            broken.append(link)
    assert broken == []


@each_document
def test_files_that_are_named(document):
    if document.name in HISTORY:
        return
    named = {span for _, span in spans(document) if FILE.fullmatch(span) and not any(e in span for e in EXAMPLES)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def code(document: Path) -> str:
    """All blocks and spans, but what a program has printed."""
    return "\n".join(
        [block.text for block in blocks(document) if block.language != "text"] + [span for _, span in spans(document)]
    )


@each_document
def test_modules_and_functions_that_are_named(document):
    for name in set() if document.name in HISTORY else set(MODULE.findall(code(document))):
        pkgutil.resolve_name(name)


@each_document
def test_make_targets(document):
    assert set(MAKE.findall(code(document))) - TARGETS == set()


def test_every_target_is_phony_and_explained():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)[1].split())
    explained = set(re.findall(r"^([a-z][a-z-]*):.* ## \S", makefile, flags=re.MULTILINE))
    assert TARGETS == phony == explained
