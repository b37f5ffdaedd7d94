"""``reward=remote``: a service scores completions: ``dqo-serve``, or a reward model behind OpenRLHF's form of HTTP."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dqo.batching import group_of, join
from dqo.errors import ConfigError, ServiceError, StageError
from dqo.ranges import Count
from dqo.records import Rewards, Rollouts
from dqo.reward.scoring.bad_rows import no_column
from dqo.reward.scoring.totals import judged_mask
from dqo.reward.services.openrlhf import query_of, rewards_in
from dqo.services import Calls, Service
from dqo.stages import Task
from dqo.wire import decode_rewards, encode_rollouts

PART = "remote"
MOST_CALLS = 64  # groups that are judged at a time
SCORE = "/v1/score"  # of dqo-serve
NO_TEXTS = b'{"query": [], "prompts": [], "labels": []}'  # of OpenRLHF's form


class Form(StrEnum):
    """What is said over HTTP."""

    dqo = "dqo"  # dqo-serve's: whole groups with their columns; rewards with parts, correctness and validity
    openrlhf = "openrlhf"  # {"query", "prompts", "labels"} and {"rewards"}: a number of each text


class Remote:
    """The rewards of a service, at one address or several that score alike. A service that is down is waited for
    (``services``); nothing is made up: an answer of another length, or with a value that is no finite number, is
    refused."""

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        url: str | list[str],
        form: Form,
        label_column: str | None,
        batch: Annotated[Count, Field(examples=[64])],
        calls: Calls,
        correct_above: Annotated[float | None, Field(examples=[0.5])],
        mask_truncated_completions: bool,
    ):
        """Raises ConfigError for a column that the task's first prompt lacks, and where the service is not there."""
        columns = task.held_out()[0].columns
        if label_column is not None and label_column not in columns:
            raise no_column(label_column, columns, "reward.label_column")
        if not url:
            raise ConfigError("reward.url=[]: an address is needed; type reward.url=http://HOST:PORT")
        self._tokenizer, self._form, self._label_column, self._batch = tokenizer, form, label_column, batch
        self._correct_above, self._mask_truncated = correct_above, mask_truncated_completions
        advice = {
            404: "type reward.url=http://HOST:PORT of a dqo-serve"
            if form == Form.dqo
            else "type the whole reward.url, as in reward.url=http://HOST:5000/get_reward",
            413: f"type reward.batch={max(1, batch // 2)}",
        }
        urls = [url] if isinstance(url, str) else url
        self._service = Service(urls, calls, key="reward.url", stage="reward", token="DQO_TOKEN", advice=advice)
        if form == Form.dqo:
            self._service.probe(SCORE, refused=(401, 403, 404))  # dqo-serve says 405: the method is not GET
        else:
            self._service.probe(refused=(401, 403, 404), posted=NO_TEXTS)
        self.calls_at_a_time = min(calls.concurrency, MOST_CALLS)

    def score(self, rollouts: Rollouts) -> Rewards:
        """The service's rewards, (P, k); the part of ``form=openrlhf`` is ``remote``.

        Raises ServiceError where the service fails for good. Thread-safe; not a collective.
        """
        judged_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        rewards = self._groups(rollouts) if self._form == Form.dqo else self._texts(rollouts, judged_PK)
        valid_PK = rewards.valid_PK & judged_PK
        total_PK = rewards.total_PK.masked_fill(~valid_PK, 0.0)
        correct_PK = rewards.correct_PK if self._correct_above is None else total_PK > self._correct_above
        correct_PK = None if correct_PK is None else correct_PK & valid_PK
        return replace(rewards, total_PK=total_PK, correct_PK=correct_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """``remote/repeated``: requests that failed and were made again. Thread-safe; not a collective."""
        return {"remote/repeated": self._service.repeated}

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def _groups(self, rollouts: Rollouts) -> Rewards:
        """``form=dqo``: a request holds as many whole groups as ``batch`` completions make up, at least one."""
        count, size = len(rollouts.prompts), max(1, self._batch // rollouts.k)
        parts = [
            join([group_of(rollouts, rollouts, p) for p in range(start, min(start + size, count))])
            for start in range(0, count, size)
        ]
        found = self._service.side_by_side(self._scored, parts)
        kinds = {(tuple(sorted(rewards.parts)), rewards.correct_PK is None) for rewards in found}
        if len(kinds) > 1:
            named = " and ".join(sorted(", ".join(names) for names, _ in kinds))
            raise ServiceError("reward", f"reward.url: its addresses do not score alike: they give the parts {named}")
        return join(found)

    def _scored(self, rollouts: Rollouts) -> Rewards:
        try:
            body = encode_rollouts(rollouts)
        except ValueError as error:
            positions = [prompt.position for prompt in rollouts.prompts]
            raise StageError("reward", f"reward=remote: {error}", positions=positions) from error
        return self._service.post(body, lambda reply: decode_rewards(reply, rollouts), path=SCORE)

    def _texts(self, rollouts: Rollouts, judged_PK: Tensor) -> Rewards:
        """``form=openrlhf``: ``batch`` texts a request."""
        rows = judged_PK.flatten().nonzero()[:, 0].tolist()
        parts = [rows[start : start + self._batch] for start in range(0, len(rows), self._batch)]
        found = self._service.side_by_side(lambda some: self._rewarded(rollouts, some), parts)
        total_B: Float[Tensor, " batch"] = torch.full((len(rollouts.texts),), math.nan)
        total_B[rows] = torch.tensor([reward for some in found for reward in some], dtype=torch.float32)
        part_PK = total_B.view_as(judged_PK)
        return Rewards(total_PK=part_PK, parts={PART: part_PK}, correct_PK=None, valid_PK=judged_PK)

    def _rewarded(self, rollouts: Rollouts, rows: Sequence[int]) -> list[float]:
        prompts, queries, labels = [], [], []
        for row in rows:
            prompt = rollouts.prompts[row // rollouts.k]
            ids = rollouts.tokens_BT[row, : int(rollouts.lengths_B[row])].tolist()
            text, query = query_of(self._tokenizer, ids, len(prompt.tokens))
            label = None if self._label_column is None else prompt.columns.get(self._label_column)
            prompts.append(text)
            queries.append(query)
            labels.append(label if label is None or isinstance(label, str) else json.dumps(label, default=str))
        body = json.dumps({"query": queries, "prompts": prompts, "labels": labels}).encode()
        return self._service.post(body, lambda reply: rewards_in(reply, len(rows)))
