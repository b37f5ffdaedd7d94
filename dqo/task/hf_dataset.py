"""``task=hf_dataset``: prompts from a data set on the Hugging Face hub."""

from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.task.reading.arrow import hub_tables
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice, OwnPrompts
from dqo.task.reading.settings import MessageRendering
from dqo.task.reading.sources import Table

Split = Annotated[str, Field(min_length=1, examples=["train"])]


class HfDataset(OwnPrompts):
    """The prompts of one split. ``datasets`` writes the data set to its cache on the disk once; nothing of the data set
    is run as code."""

    option = "hf_dataset"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: MessageRendering,
        fields: Fields,
        choice: Choice,
        name: str | None,
        config: str | None,
        revision: str | None,
        split: Split,
        eval_split: Split | None,
    ):
        if not name:
            raise ConfigError("task=hf_dataset needs a data set of the hub; type task.name=ORG/NAME")
        splits = [split] if eval_split is None else [split, eval_split]
        training, *evaluation = (Table(*table) for table in hub_tables(name, config, splits, revision=revision))
        super().__init__(
            tokenizer, context_length, rendering, fields, choice, sources=[training], eval_sources=evaluation,
            place=training.name, eval_key="task.eval_split=NAME",
        )  # fmt: skip
