"""``task=cnn_dailymail``: news articles → their highlights (Hermann et al. 2015, See et al. 2017)."""

import re
from collections.abc import Mapping
from itertools import starmap
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.task.reading.data_set import DataSet, held_out_rows, texts_of, training_rows
from dqo.task.reading.documents import Cutter, Cutting, DocumentTask
from dqo.task.reading.row import REFERENCES, Row
from dqo.task.reading.settings import Rendering

DATA = DataSet(
    hub="abisee/cnn_dailymail",
    subset="3.0.0",
    files={"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
)
BEFORE, AFTER = "Summarize the news article below in three sentences.\n\n", "\n\nSummary in three sentences:"
SPACED = re.compile(r" +(?=[.,!?;:])")  # the highlights have "word ."


class CnnDailyMail(DocumentTask):
    """Articles with the highlights that their editors wrote. For ``reward=rouge`` or a reward model: no summary is
    right or wrong, so ``reward=check`` is refused."""

    option = "cnn_dailymail"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: Rendering,
        cutting: Cutting,
        data_dir: str | None,
        eval_split: Annotated[Literal["validation", "test"], Field(examples=["validation"])],
        held_out: Annotated[int, Field(ge=1, examples=[200])],
    ):
        train, evaluation = DATA.read(["train", eval_split], data_dir)
        cutter = Cutter(tokenizer, context_length, rendering, cutting)
        training = training_rows(train, _row, cutter)
        super().__init__(
            tokenizer,
            context_length,
            rendering,
            cutter,
            training=training,
            held_out=held_out_rows(starmap(_row, evaluation), training, held_out),
        )


def _row(source: str, fields: Mapping[str, Any]) -> Row:
    article, highlights = (text.strip() for text in texts_of(fields, ["article", "highlights"], source))
    summary = SPACED.sub("", " ".join(highlights.split()))
    return Row(
        content=f"{BEFORE}{article}{AFTER}",
        source=source,
        columns={REFERENCES: [summary], "id": fields.get("id")},
        demonstrations=(summary,),
        document=(len(BEFORE), len(BEFORE) + len(article)),
    )
