"""``task=jsonl | json | csv | parquet``: a user's own prompts, from files (``reading.places``, ``reading.tables``)."""

from typing import Annotated

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice, OwnPrompts
from dqo.task.reading.places import files_of
from dqo.task.reading.settings import MessageRendering
from dqo.task.reading.sources import Source, source_of
from dqo.task.reading.tables import Form

Paths = Annotated[str | list[str] | None, Field(examples=["my.jsonl"])]


class Jsonl(OwnPrompts):
    """The prompts of files and folders."""

    option = "jsonl"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: MessageRendering,
        fields: Fields,
        choice: Choice,
        path: Paths,
        eval_path: Paths,
        format: Annotated[Form | None, Field(examples=["csv"])],
    ):
        if not path:
            raise ConfigError('task=jsonl needs a file of lines like {"prompt": "…"}; type task.path=my.jsonl')
        sources = _sources(path, "task.path=FILE", ["train"], format)
        evaluation = _sources(eval_path or [], "task.eval_path=FILE", ["test", "validation"], format)
        super().__init__(
            tokenizer, context_length, rendering, fields, choice, sources=sources, eval_sources=evaluation,
            place=sources[0].name if len(sources) == 1 else f"{sources[0].name} and {len(sources) - 1} more",
            eval_key="task.eval_path=FILE",
        )  # fmt: skip


def _sources(typed: str | list[str], key: str, splits: list[str], form: Form | None) -> list[Source]:
    return [source_of(path, key=key, splits=splits, form=form) for path in files_of(typed, key=key, splits=splits)]
