"""``task=scitldr``: scientific papers → one-sentence summaries (SciTLDR, Cachola et al. 2020, arXiv 2004.15011)."""

from typing import Annotated, Literal, TypeGuard

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.task.reading.data_set import DataSet, Numbered, held_out_rows, one_per_prompt
from dqo.task.reading.documents import Cutter, Cutting, DocumentTask
from dqo.task.reading.row import REFERENCES, Row
from dqo.task.reading.settings import Rendering

FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}
CONVERTED = "refs/convert/parquet"  # the hub's own parquet files; the main branch has a script, which is not run
BEFORE, AFTER = "Summarize the scientific paper below in one sentence.\n\n", "\n\nSummary in one sentence:"


class SciTldr(DocumentTask):
    """Papers with one to five reference summaries each. For ``reward=rouge`` or a reward model: no summary is right or
    wrong, so ``reward=check`` is refused."""

    option = "scitldr"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        cutting: Cutting,
        data_dir: str | None,
        subset: Annotated[Literal["Abstract", "AIC", "FullText"], Field(examples=["Abstract"])],
        eval_split: Annotated[Literal["validation", "test"], Field(examples=["validation"])],
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        data = DataSet(hub="allenai/scitldr", files=FILES, revision=CONVERTED, folder=subset)
        train, evaluation = data.read(["train", eval_split], data_dir)
        training = one_per_prompt(_rows(train))
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            Cutter(tokenizer, context_length, rendering, cutting),
            training=training,
            held_out=held_out_rows(_rows(evaluation), training, held_out),
        )


def _rows(numbered: Numbered) -> list[Row]:
    rows = []
    for source, fields in numbered:
        sentences, summaries = fields.get("source"), fields.get("target")
        if not _are_texts(sentences) or not _are_texts(summaries):
            raise ConfigError(
                f'{source}: "source" and "target" are needed as lists of sentences; the row has '
                f"{', '.join(fields) or 'nothing'}"
            )
        paper = " ".join(" ".join(sentences).split())  # some sentences have line ends in them
        references = [" ".join(summary.split()) for summary in summaries]
        rows.append(
            Row(
                content=f"{BEFORE}{paper}{AFTER}",
                source=source,
                columns={REFERENCES: references, "paper_id": fields.get("paper_id")},
                demonstrations=tuple(references),
                document=(len(BEFORE), len(BEFORE) + len(paper)),
            )
        )
    return rows


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value) and any(map(str.strip, value))
