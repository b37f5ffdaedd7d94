"""``task=commongen``: everyday words → one sentence with all of them (CommonGen, Lin et al. 2020, arXiv 1911.03705)."""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.english import covered_concepts, fault, forms, words_of
from dqo.task.reading.files import read_hub, read_lines
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering
from dqo.task.reading.tables import is_saved_dict, read_rows

HUB = "allenai/common_gen"
FILES = "commongen.{train,dev}.{src_alpha,tgt}.txt of CommonGen v1.0"
KEY = f"task.data_dir=FOLDER with {FILES}"
SPLITS = ("train", "validation")  # on the hub
PROMPT = "Write one short sentence that uses all of these words: {}."
Pair = tuple[tuple[str, ...], str]  # concepts, a human reference sentence


class CommonGen(RowTask):
    """Reward: the share of the concepts that the answer uses, if it is one well-formed sentence (``english.fault``);
    otherwise 0.0.

    An answer that uses all concepts is correct. Inflections count ("stood" uses "stand"). Known words are the words of
    the human references and their inflections; two unknown words are a fault, since policies were seen to invent words.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        data_dir: str | None,
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        training, evaluation = _read_files(Path(data_dir).expanduser()) if data_dir is not None else _read_hub()
        self._known = frozenset().union(*map(forms, {word for _, text in training for word in words_of(text)}))
        sets = _pairs_by_concepts(training)
        fresh = [pairs for key, pairs in _pairs_by_concepts(evaluation).items() if key not in sets]
        random.Random("commongen").shuffle(fresh)  # upstream's files are sorted by size
        if held_out > len(fresh):
            raise ConfigError(f"task.held_out={held_out}: 1 to {len(fresh)} can be; type task.held_out={len(fresh)}")
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=[_row(pairs) for pairs in sets.values()],
            held_out=[_row(pairs) for pairs in fresh[:held_out]],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The share of the concepts that ``text`` uses, 0.0 to 1.0; correct if all. 0.0 if unfinished or with a fault.
        Thread-safe."""
        concepts = prompt.columns["concepts"]
        if not finished or fault(text, concepts, self._known):
            return Verdict(reward=0.0, correct=False)
        count = len(covered_concepts(concepts, text))
        return Verdict(reward=count / len(concepts), correct=count == len(concepts))


def _row(pairs: list[Pair]) -> Row:
    concepts = pairs[0][0]
    return Row(
        content=PROMPT.format(", ".join(concepts)),
        source=f"the concepts {', '.join(concepts)}",
        columns={"concepts": list(concepts)},
        demonstrations=tuple(_reference_sentence(text) for _, text in pairs),
    )


def _reference_sentence(text: str) -> str:
    """The reference with a capital first letter and a full stop, which many references lack."""
    text = text.strip().rstrip(" .!?") + "."
    return text[:1].upper() + text[1:]


def _pairs_by_concepts(pairs: Iterable[Pair]) -> dict[frozenset[str], list[Pair]]:
    sets: dict[frozenset[str], list[Pair]] = {}
    for concepts, text in pairs:
        sets.setdefault(frozenset(concepts), []).append((concepts, text))
    return sets


def _read_files(folder: Path) -> tuple[list[Pair], list[Pair]]:
    if is_saved_dict(folder):
        train, dev = (read_rows(folder / name, key=KEY) for name in SPLITS)
        return _pairs(row for _, row in train), _pairs(row for _, row in dev)
    return _read_split(folder, "train"), _read_split(folder, "dev")


def _read_split(folder: Path, split: str) -> list[Pair]:
    """The pairs of one split. In upstream's v1.0 files, line n of ``src_alpha`` has the concepts and line n of ``tgt``
    the sentence."""
    concepts = read_lines(folder / f"commongen.{split}.src_alpha.txt", key=KEY)
    texts = dict(read_lines(folder / f"commongen.{split}.tgt.txt", key=KEY))
    if missing := {number for number, _ in concepts} ^ set(texts):
        raise ConfigError(
            f"{folder / f'commongen.{split}.src_alpha.txt'}, line {min(missing)}: the concepts and the sentences of "
            f"commongen.{split}.tgt.txt do not match line by line; type {KEY}"
        )
    return [(tuple(words.split()), texts[number]) for number, words in concepts]


def _read_hub() -> tuple[list[Pair], list[Pair]]:
    train, dev = read_hub(HUB, None, SPLITS, files=FILES)
    return _pairs(train), _pairs(dev)


def _pairs(rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    return [(tuple(row["concepts"]), row["target"]) for row in rows]
