"""``task=commongen``: everyday words → a sentence that uses them all (CommonGen, Lin et al. 2020, arXiv 1911.03705)."""

import random
from collections.abc import Iterable
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.english import fault, forms, used, words_of
from dqo.task.reading.files import read_hub, read_lines
from dqo.task.reading.rows import Row, RowTask

HUB = "allenai/common_gen"
FILES = "commongen.{train,dev}.{src_alpha,tgt}.txt of CommonGen v1.0"
PROMPT = "Write one short sentence that uses all of these words: {}."
Pair = tuple[tuple[str, ...], str]  # concepts, a person's sentence


class CommonGen(RowTask):
    """Reward: the share of the concepts that one well-formed sentence uses; 0 for anything else (``english.fault``).

    Correct is a sentence with all of them. Inflections count ("stood" uses "stand"). The words of the human references
    are what is known; a second unknown word is a fault, for policies were seen to make words up.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        seed: int,
        max_completion_length: int,
        chat_template: bool,
        data_dir: str | None,
        held_out: int,
    ):
        training, evaluation = _read_files(Path(data_dir)) if data_dir is not None else _read_hub()
        self._known = frozenset().union(*map(forms, {word for _, text in training for word in words_of(text)}))
        sets = _by_concepts(training)
        fresh = [pairs for key, pairs in _by_concepts(evaluation).items() if key not in sets]
        random.Random("commongen").shuffle(fresh)  # upstream has them by size
        if not 1 <= held_out <= len(fresh):
            raise ConfigError(f"task.held_out={held_out}: 1 to {len(fresh)} can be; type task.held_out={len(fresh)}")
        super().__init__(
            tokenizer,
            context_length,
            seed=seed,
            max_completion_length=max_completion_length,
            chat_template=chat_template,
            training=[_row(pairs) for pairs in sets.values()],
            held_out=[_row(pairs) for pairs in fresh[:held_out]],
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        concepts = prompt.columns["concepts"]
        if not finished or fault(text, concepts, self._known):
            return Verdict(reward=0.0, correct=False)
        count = len(used(concepts, text))
        return Verdict(reward=count / len(concepts), correct=count == len(concepts))


def _row(pairs: list[Pair]) -> Row:
    concepts = pairs[0][0]
    return Row(
        content=PROMPT.format(", ".join(concepts)),
        source=f"the concepts {', '.join(concepts)}",
        columns={"concepts": list(concepts)},
        demonstrations=tuple(_tidy(text) for _, text in pairs),
    )


def _tidy(text: str) -> str:
    """A reference as a sentence: many lack the capital or the full stop."""
    text = text.strip().rstrip(" .!?") + "."
    return text[:1].upper() + text[1:]


def _by_concepts(pairs: Iterable[Pair]) -> dict[frozenset[str], list[Pair]]:
    sets: dict[frozenset[str], list[Pair]] = {}
    for concepts, text in pairs:
        sets.setdefault(frozenset(concepts), []).append((concepts, text))
    return sets


def _read_files(folder: Path) -> tuple[list[Pair], list[Pair]]:
    return _read_split(folder, "train"), _read_split(folder, "dev")


def _read_split(folder: Path, split: str) -> list[Pair]:
    """The upstream files of v1.0: line n of ``src_alpha`` holds the concepts, line n of ``tgt`` the sentence."""
    key = f"task.data_dir=FOLDER with {FILES}"
    concepts = read_lines(folder / f"commongen.{split}.src_alpha.txt", key=key)
    texts = dict(read_lines(folder / f"commongen.{split}.tgt.txt", key=key))
    if missing := {number for number, _ in concepts} ^ set(texts):
        raise ConfigError(
            f"{folder / f'commongen.{split}.src_alpha.txt'}, line {min(missing)}: the concepts and the sentences of "
            f"commongen.{split}.tgt.txt do not belong together line by line; type {key}"
        )
    return [(tuple(words.split()), texts[number]) for number, words in concepts]


def _read_hub() -> tuple[list[Pair], list[Pair]]:
    train, dev = (
        [(tuple(row["concepts"]), row["target"]) for row in rows]
        for rows in read_hub(HUB, None, ["train", "validation"], files=FILES)
    )
    return train, dev
