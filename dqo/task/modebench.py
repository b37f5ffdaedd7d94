"""``task=modebench``: five kinds of puzzles with several right answers each, and verifiers that say which answer is
right and which of the solutions it is (d'Aliberti et al. 2026, the package modebench)."""

import hashlib
import json
import logging
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from transformers import PreTrainedTokenizerBase

from dqo.errors import ConfigError, StageError
from dqo.records import Prompt
from dqo.stages import Verdict
from dqo.task.reading.row import Content
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import MessageRendering
from dqo.task.reading.tables import read_rows

log = logging.getLogger(__name__)

SOURCE = "task.data_dir=FOLDER, the folder data of github.com/liv-daliberti/modeBench"
ANSWERED = 60.0  # seconds until the verifier's process must have answered, its start included
REMEMBERED = 10_000  # verdicts: ``check`` and ``key`` ask for the same

Domain = Annotated[
    Literal["countdown", "graph_coloring", "python_factors", "mathir", "pantry_plan"], Field(examples=["countdown"])
]


class ModeBench(RowTask):
    """Reward 1.0 if the answer is finished and modebench's verifier accepts it, else 0.0.

    The verifier is a process of its own with limits of its own: 2 seconds an answer, .25 where it runs the answer's
    code, and 1 GB. An answer that exceeds one is wrong, and counted.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context_length: int,
        *,
        rendering: MessageRendering,
        data_dir: str | None,
        domain: Domain,
        level: Annotated[int, Field(ge=1, le=5, examples=[1])],
        held_out: Annotated[int, Field(ge=1, examples=[128])],
    ):
        self._domain, self._level = domain, level
        self._is_chat = bool(rendering.chat_template and tokenizer.chat_template)
        self._worker = _worker()
        self._counts, self._counting = {"timeouts": 0, "over_limits": 0}, threading.Lock()
        self._verdict = lru_cache(maxsize=REMEMBERED)(self._ask)
        training, evaluation = (self._read(split, data_dir) for split in ("train", "eval"))
        if held_out > len(evaluation):
            raise ConfigError(
                f"task.held_out={held_out}: the split eval has {len(evaluation)} rows; type "
                f"task.held_out={len(evaluation)}"
            )
        super().__init__(tokenizer, context_length, rendering, training=training, held_out=evaluation[:held_out])

    def check(self, prompt: Prompt, text: str, finished: bool) -> Verdict:
        """Reward 1.0 and correct if ``text`` is finished and the verifier accepts it, else 0.0. Thread-safe. Raises
        StageError if the verifier's process fails twice."""
        right = finished and self._mode(prompt, text) is not None
        return Verdict(reward=float(right), correct=right)

    def key(self, prompt: Prompt, text: str) -> str:
        """The verifier's name of the solution; for an answer that it does not accept, the text in lower case."""
        return self._mode(prompt, text) or super().key(prompt, text)

    def counters(self) -> dict[str, int]:
        """Different answers whose check ran out of time, or over another limit, since the start. Thread-safe."""
        with self._counting:
            return dict(self._counts)

    def close(self) -> None:
        """End the verifier's process."""
        self._worker.close()

    def _mode(self, prompt: Prompt, text: str) -> str | None:
        try:
            return self._verdict(prompt.columns["answer"], text)
        except RuntimeError as error:
            raise StageError("task", f"modebench's verifier: {error}", positions=[prompt.position]) from error

    def _ask(self, answer: str, text: str) -> str | None:
        """The solution that an answer is, None if it is none. Raises RuntimeError if the process fails twice."""
        found: dict[str, Any] = {}
        for _ in range(2):
            found = self._request("grade", answer=answer, text=text)
            if found["status"] not in ("worker_failure", "invalid_reference"):
                break
        else:
            raise RuntimeError(found["detail"] or found["status"])
        if limit := {"timeout": "timeouts", "resource_limit": "over_limits"}.get(found["status"]):
            with self._counting:
                self._counts[limit] += 1
        return found["canonical_key"]

    def _request(self, operation: str, **what: str) -> dict[str, Any]:
        return self._worker.request({"operation": operation, "level": self._level, "domain": self._domain, **what})

    def _read(self, split: str, data_dir: str | None) -> list[Row]:
        config = f"level{self._level}_{self._domain}"
        file = Path(f"level{self._level}", self._domain, f"{split}.parquet")
        path = (_fetched(config, split) if data_dir is None else Path(data_dir).expanduser()) / file
        numbered = read_rows(path, key=f"{SOURCE}, which has {file}")
        _warn_if_changed(path, config, split)
        return [self._checked_row(source, fields) for source, fields in numbered]

    def _checked_row(self, source: str, fields: dict[str, Any]) -> Row:
        problem, answer = fields.get("problem"), fields.get("answer")
        if not isinstance(problem, str) or not isinstance(answer, str | dict):
            raise ConfigError(
                f'{source}: "problem" as text and "answer" are needed; the row has {", ".join(fields) or "nothing"}'
            )
        answer = answer if isinstance(answer, str) else json.dumps(answer, sort_keys=True)
        found = self._request("reference", answer=answer)
        if found["status"] != "correct":
            raise ConfigError(f'{source}: modebench refuses the "answer" ({found["detail"]}); type {SOURCE}')
        columns = {"answer": answer, "modes": fields.get("answer_mode_count")}
        try:
            content = self._content(problem)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error
        return Row(content=content, source=source, columns=columns)

    def _content(self, text: str) -> Content:
        """modebench's messages around a problem, a system's and a user's; without a chat template the problem alone."""
        if not self._is_chat:
            return text
        from modebench.prompts import make_messages

        try:
            return tuple(make_messages(self._level, self._domain, {"problem": text}))
        except ValueError as error:
            raise ConfigError(f"modebench refuses the problem: {error}") from error


def _worker() -> Any:
    """The verifier's process, which starts at the first request. Thread-safe: it answers one request at a time."""
    try:
        from modebench.worker_process import BoundedWorker
    except ModuleNotFoundError as error:
        raise ConfigError("task=modebench needs the package modebench; type pip install 'dqo-rl[modebench]'") from error
    return BoundedWorker(timeout_seconds=ANSWERED)


def _fetched(config: str, split: str) -> Path:
    """modebench's folder of downloaded data, with this split in it."""
    from modebench.dataset_cache import fetch
    from modebench.validation import InputError

    try:
        return fetch(config, split, offline=os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"))
    except InputError as error:
        raise ConfigError(f"task.data_dir=null: modebench's data: {error}; type {SOURCE}") from error


def _warn_if_changed(path: Path, config: str, split: str) -> None:
    from modebench.dataset_cache import discover

    (record,) = discover(config, split)
    if hashlib.sha256(path.read_bytes()).hexdigest() != record["parquet_sha256"]:
        log.warning("%s is not the published split of modebench: its numbers cannot be compared with others'", path)
