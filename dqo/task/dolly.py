"""``task=dolly``: instructions that people wrote, of eight kinds (databricks-dolly-15k, Conover et al. 2023)."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.task.reading.data_set import DataSet, Numbered, one_per_prompt, split_by_hash, texts_of
from dqo.task.reading.documents import Cutter, Cutting, DocumentTask
from dqo.task.reading.row import REFERENCES, Row
from dqo.task.reading.settings import Rendering

DATA = DataSet(hub="databricks/databricks-dolly-15k", files={"train": "databricks-dolly-15k.jsonl"})

Category = Literal[
    "brainstorming", "classification", "closed_qa", "creative_writing", "general_qa", "information_extraction",
    "open_qa", "summarization",
]  # fmt: skip


class Dolly(DocumentTask):
    """An instruction, for some kinds with a text that it is about, and a person's response. For a reward model or a
    judge: no response is right or wrong, so ``reward=check`` is refused."""

    option = "dolly"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        cutting: Cutting,
        data_dir: str | None,
        categories: Annotated[
            list[Category] | None, Field(min_length=1, examples=["[brainstorming,creative_writing]"])
        ],
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        (numbered,) = DATA.read(["train"], data_dir)
        rows = one_per_prompt(_rows(numbered))
        there = Counter(row.columns["category"] for row in rows)
        if missing := next((name for name in categories or () if name not in there), None):
            raise ConfigError(
                f"task.categories: no row is of the category {missing}; there are {', '.join(sorted(there))}; type "
                f"task.categories=[{min(there)}]"
            )
        chosen = [row for row in rows if categories is None or row.columns["category"] in categories]
        training, evaluation = split_by_hash(chosen, held_out)
        cutter = Cutter(tokenizer, context_length, rendering, cutting)
        super().__init__(tokenizer, context_length, rendering, cutter, training=training, held_out=evaluation)


def _rows(numbered: Numbered) -> list[Row]:
    rows = []
    for source, fields in numbered:
        instruction, response = texts_of(fields, ["instruction", "response"], source)
        (category,) = texts_of(fields, ["category"], source)
        context = fields.get("context") or ""
        if not isinstance(context, str):
            raise ConfigError(f'{source}: "context" is needed as text; it may be empty')
        before, context, response = f"{instruction.strip()}\n\n", context.strip(), response.strip()
        rows.append(
            Row(
                content=f"{before}{context}".strip(),
                source=source,
                columns={REFERENCES: [response], "category": category},
                demonstrations=(response,),
                document=(len(before), len(before) + len(context)) if context else None,
            )
        )
    return rows
