"""``task=noveltybench``: prompts with many good answers, to measure how different a policy's answers are
(NoveltyBench, Zhang et al. 2025, arXiv 2504.05228). For dqo-eval and dqo-sample: no answer is right or wrong."""

from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.metrics.noveltybench import without_emphasis
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.data_set import DataSet, Numbered, texts_of
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import MessageRendering

DATA = DataSet(hub="yimingzhang/novelty-bench", files={"curated": "curated.jsonl", "wildchat": "wildchat-1k.jsonl"})
KEPT = ("id", "category")  # fields that become columns


class NoveltyBench(RowTask):
    """All prompts are held out, none is trained on, and no answer has a reward. Its metrics, ``distinct_k`` and
    ``utility_k``, are those of ``eval.metrics=[noveltybench]``."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: MessageRendering,
        data_dir: str | None,
        split: Annotated[Literal["curated", "wildchat"], Field(examples=["curated"])],
        skip_long: bool,
    ):
        (rows,) = map(_rows, DATA.read([split], data_dir))
        super().__init__(tokenizer, context_length, rendering, training=[], held_out=rows, skip_long=skip_long)

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Raises ConfigError."""
        raise ConfigError(
            "task=noveltybench has no right answers, so reward=check cannot judge it; type reward=none, or "
            "reward=python reward.function=my_module.score"
        )

    def key(self, prompt: Prompt, text: str) -> str:
        """The text in lower case, without markdown's emphasis, extra white space and final punctuation: "**Paris**" and
        "Paris." are the same answer."""
        return super().key(prompt, without_emphasis(text))


def _rows(numbered: Numbered) -> list[Row]:
    rows = []
    for source, fields in numbered:
        (text,) = texts_of(fields, ["prompt"], source)
        rows.append(Row(content=text, source=source, columns={name: fields[name] for name in KEPT if name in fields}))
    return rows
