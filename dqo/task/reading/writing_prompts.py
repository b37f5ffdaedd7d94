"""WritingPrompts (Fan et al. 2018, arXiv 1805.04833): prompts of the forum r/WritingPrompts with stories."""

import logging
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

from dqo.task.reading.data_set import DataSet, Numbered, aligned_lines, texts_of
from dqo.task.reading.row import Row

log = logging.getLogger(__name__)

DATA = DataSet(
    hub="euclaise/writingprompts",
    files={"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
)
UPSTREAM = {"train": "train", "validation": "valid"}  # of files as train.wp_source and train.wp_target
PROMPT = "Write a short story for this writing prompt.\n\n{}"
TAG = re.compile(r"^\s*[\[(]\s*([A-Za-z]{2,3})\s*[\])]\s*[:-]?\s*")
NO_STORY = {"OT", "IP", "MP", "MOD"}  # off topic, about a picture, about music or a film, of the moderators
WRITTEN = (  # upstream's texts are split into tokens: "do n't" , `` like this ''
    (re.compile(r"\s*<newline>\s*"), "\n"),
    (re.compile(r"(?:``|'')"), '"'),
    (re.compile(r'"[^\S\n]+([^"\n]*?)[^\S\n]+"'), r'"\1"'),
    (re.compile(r"(?<=\w)[^\S\n]+(?=n't\b|'(?:s|m|re|ve|ll|d)\b)", re.IGNORECASE), ""),
    (re.compile(r"[^\S\n]+(?=[.,!?;:)\]])"), ""),
    (re.compile(r"(?<=[(\[])[^\S\n]+"), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
)


def read_writing_prompts(data_dir: str | None) -> tuple[list[Row], list[Row]]:
    """The rows of the training and the validation split, without prompts that ask for no story; the first story of a
    prompt is its demonstration. Raises ConfigError."""
    folder = None if data_dir is None else Path(data_dir).expanduser()
    if folder is not None and (folder / "train.wp_source").exists():
        train, evaluation = (_aligned(folder, name) for name in UPSTREAM.values())
    else:
        train, evaluation = DATA.read(["train", "validation"], data_dir)
    return _rows(train), _rows(evaluation)


def plain(text: str) -> str:
    """The text as one would write it, from upstream's tokens."""
    return reduce(lambda text, rule: rule[0].sub(rule[1], text), WRITTEN, text).strip()


def _aligned(folder: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    source, target = folder / f"{split}.wp_source", folder / f"{split}.wp_target"
    key = "task.data_dir=FOLDER with {train,valid}.{wp_source,wp_target}"
    for number, prompt, story in aligned_lines(source, target, key=key):
        yield f"{source}, line {number}", {"prompt": prompt, "story": story}


def _rows(numbered: Numbered) -> list[Row]:
    found: dict[str, Row] = {}
    left_out = set[str]()
    for source, fields in numbered:
        prompt, story = texts_of(fields, ["prompt", "story"], source)
        tag = TAG.match(prompt)
        text = plain(prompt[tag.end() :] if tag else prompt)
        if not text or (tag and tag[1].upper() in NO_STORY):
            left_out.add(prompt)
        elif text not in found:
            content = PROMPT.format(text)
            found[text] = Row(content=content, source=source, columns={}, demonstrations=(plain(story),))
    if left_out:
        log.info("%d of %d prompts ask for no story and are left out", len(left_out), len(left_out) + len(found))
    return list(found.values())
