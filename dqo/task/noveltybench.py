"""``task=noveltybench``: prompts with many good answers, to measure how different a policy's answers are
(NoveltyBench, Zhang et al. 2025, arXiv 2504.05228). For dqo-eval and dqo-sample: no answer is right or wrong."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError
from dqo.metrics.noveltybench import without_emphasis
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.files import read_hub
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import MessageRendering
from dqo.task.reading.tables import is_saved_dict, read_rows

HUB = "yimingzhang/novelty-bench"
FILES = {"curated": "curated.jsonl", "wildchat": "wildchat-1k.jsonl"}
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
        rows = _read_hub(split) if data_dir is None else _read_file(Path(data_dir).expanduser(), split)
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


def _read_file(folder: Path, split: str) -> list[Row]:
    path = folder / (split if is_saved_dict(folder) else FILES[split])
    return _rows(read_rows(path, key=f"task.data_dir=FOLDER with {FILES[split]} of NoveltyBench"))


def _read_hub(split: str) -> list[Row]:
    (rows,) = read_hub(HUB, None, [split], files=FILES[split])
    return _rows((f"{HUB} {split}, row {number}", row) for number, row in enumerate(rows, 1))


def _rows(numbered: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Row]:
    rows = []
    for source, fields in numbered:
        text = fields.get("prompt")
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f'{source}: "prompt" is needed as text; the row has {", ".join(fields) or "nothing"}')
        rows.append(Row(content=text, source=source, columns={name: fields[name] for name in KEPT if name in fields}))
    return rows
