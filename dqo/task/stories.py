"""``task=stories``: short stories with the concepts of CommonGen, or for prompts of r/WritingPrompts."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.language.english import covered_concepts, story_fault
from dqo.task.reading.concept_sets import Pair, read_concept_sets
from dqo.task.reading.data_set import held_out_rows
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering
from dqo.task.reading.writing_prompts import read_writing_prompts

LEAST, MOST = 3, 5  # sentences
PROMPT = "Write a story of three to five sentences that uses all of these words: {}."


class Stories(RowTask):
    """``prompts=concepts``: the reward is the share of the concepts that a story of three to five well-formed sentences
    uses, otherwise 0.0; a story with all of them is correct. ``prompts=writing_prompts``: for a reward model or a
    judge, so ``reward=check`` is refused."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        prompts: Annotated[Literal["concepts", "writing_prompts"], Field(examples=["concepts"])],
        data_dir: str | None,
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        self._known: frozenset[str] | None = None
        if prompts == "concepts":
            sets = read_concept_sets(data_dir, held_out)
            self._known = sets.known
            training, evaluation = list(map(_row, sets.training)), list(map(_row, sets.held_out))
        else:
            training, evaluation = read_writing_prompts(data_dir)
            evaluation = held_out_rows(evaluation, training, held_out)
        super().__init__(tokenizer, context_length, rendering, training=training, held_out=evaluation, skip_long=True)

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """The share of the concepts that the story uses, 0.0 to 1.0; correct if all. 0.0 if unfinished or with a fault
        (``english.story_fault``). Raises ConfigError for writing prompts. Thread-safe."""
        if self._known is None:
            raise ConfigError(
                "task.prompts=writing_prompts has no rule for good stories, so reward=check cannot judge them; type "
                "reward=reward_model reward.path=MODEL, reward=judge reward.base_url=URL reward.model=NAME, or "
                "task.prompts=concepts"
            )
        concepts = prompt.columns["concepts"]
        if not finished or story_fault(text, concepts, self._known, least=LEAST, most=MOST):
            return Verdict(reward=0.0, correct=False)
        count = len(covered_concepts(concepts, text))
        return Verdict(reward=count / len(concepts), correct=count == len(concepts))


def _row(pairs: Sequence[Pair]) -> Row:
    """A set's row, without a demonstration: the human texts are single sentences."""
    concepts = pairs[0][0]
    source = f"the concepts {', '.join(concepts)}"
    return Row(content=PROMPT.format(", ".join(concepts)), source=source, columns={"concepts": list(concepts)})
