"""``task=commongen``: everyday words → one sentence with all of them (CommonGen, Lin et al. 2020, arXiv 1911.03705)."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.english import covered_concepts, fault
from dqo.task.reading.concept_sets import Pair, read_concept_sets
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering

PROMPT = "Write one short sentence that uses all of these words: {}."


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
        sets = read_concept_sets(data_dir, held_out)
        self._known = sets.known
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            training=list(map(_row, sets.training)),
            held_out=list(map(_row, sets.held_out)),
        )

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The share of the concepts that ``text`` uses, 0.0 to 1.0; correct if all. 0.0 if unfinished or with a fault.
        Thread-safe."""
        concepts = prompt.columns["concepts"]
        if not finished or fault(text, concepts, self._known):
            return Verdict(reward=0.0, correct=False)
        count = len(covered_concepts(concepts, text))
        return Verdict(reward=count / len(concepts), correct=count == len(concepts))


def _row(pairs: Sequence[Pair]) -> Row:
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
