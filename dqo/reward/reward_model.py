"""``reward=reward_model``: a sequence classifier in Hugging Face format, or a LoRA of one, judges each completion."""

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo.errors import ConfigError, StageError
from dqo.models.classifier import Classifier
from dqo.models.conversation import Encoding, judged_input
from dqo.models.folders import first_line
from dqo.models.precision import Dtype
from dqo.models.templates import TEMPLATE_ERRORS
from dqo.ranges import Count
from dqo.records import Prompt, Rewards, Rollouts
from dqo.reward.scoring.totals import judged_mask, total
from dqo.stages import Task

PART = "reward_model"  # the part's name where one label counts
CUT = "reward_model/cut"
PROBE = Prompt(position=0, tokens=(), content="Which city is the capital of France?", columns={})
PROBE_ANSWER = "Paris is the capital of France."
SAME_MODEL = 0.1  # of 1 + |logit|: devices and dtypes change the logits of the probe by less

Labels = Annotated[int | str | dict[int | str, float] | None, Field(examples=["0"])]


class Activation(StrEnum):
    """What is made of the model's logits."""

    NONE = "none"
    SIGMOID = "sigmoid"  # of each label by itself
    SOFTMAX = "softmax"  # over all labels


class RewardModel:
    """Weighted sum of a model's labels for prompt and completion, read as a conversation in the model's own chat
    template; a model without one reads them as a pair of texts.

    Equal rollouts get bit-identical rewards: each distinct input is read once, in an order and in batches that depend
    on the rollouts alone.
    """

    def __init__(
        self,
        task: Task,
        device: torch.device,
        *,
        path: str,
        revision: str | None,
        labels: Labels,
        activation: Activation,
        max_length: Annotated[int | None, Field(ge=1, examples=["null"])],
        batch_tokens: Count,
        dtype: Dtype,
        model_device: str,
        correct_above: Annotated[float | None, Field(examples=[0.5])],
        mask_truncated_completions: bool,
    ):
        """Reads the model. Raises ConfigError for one that cannot be used, and for ``labels`` that it does not have."""
        self._activation, self._shares_device = activation, model_device == "policy"
        self._correct_above, self._mask_truncated = correct_above, mask_truncated_completions
        self._lock, self._cut = threading.Lock(), 0
        self._device = device if self._shares_device else _own_device(model_device)
        self._classifier = Classifier(
            path, key="reward.path", device=self._device, dtype=dtype.on(self._device), revision=revision,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        if activation is Activation.SOFTMAX and len(self._classifier.labels) == 1:
            raise ConfigError(
                "reward.activation=softmax: the model has one label, whose probability is always 1; type "
                "reward.activation=none, or reward.activation=sigmoid"
            )
        self._columns, self.part_weights = _chosen(labels, self._classifier)
        self._limit = self._longest(max_length)
        self._check_template(task.held_out()[0])
        self._probe = self._classifier.logits([self._input(PROBE, PROBE_ANSWER)[0]])[0].tolist()

    def score(self, rollouts: Rollouts) -> Rewards:
        """Rewards with one part per label, (P, k), NaN for a truncated and masked completion. Counts the completions
        whose prompt had to be cut.

        Raises StageError where the chat template refuses a prompt and where logits are not finite. Judge threads call
        this concurrently; thread-safe by a lock. Not a collective.
        """
        valid_PK = judged_mask(rollouts, mask_truncated_completions=self._mask_truncated)
        with self._lock:  # tokenizers, too, serve one thread at a time
            values_NL, rows = self._values(rollouts, valid_PK.flatten().nonzero()[:, 0].tolist())
        parts = {}
        for name, column in self._columns.items():
            part_B = torch.full((len(rollouts.texts),), torch.nan)
            part_B[list(rows)] = values_NL[list(rows.values()), column]
            parts[name] = part_B.view_as(valid_PK)
        total_PK, valid_PK = total(rollouts, parts, self.part_weights, valid_PK)
        correct_PK = None if self._correct_above is None else (total_PK > self._correct_above) & valid_PK
        return Rewards(total_PK=total_PK, parts=parts, correct_PK=correct_PK, valid_PK=valid_PK)

    def counters(self) -> dict[str, int]:
        """Completions so far whose prompt was cut to fit ``max_length``. Thread-safe."""
        with self._lock:
            return {CUT: self._cut}

    def state_dict(self) -> dict[str, Any]:
        """The logits of one fixed answer, so that a resumed run notices another model."""
        return {"probe": self._probe}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ConfigError if the checkpoint was written with another model."""
        now_L, then_L = torch.tensor(self._probe), torch.tensor(state["probe"])
        if now_L.shape != then_L.shape or ((now_L - then_L).abs() > SAME_MODEL * (1 + then_L.abs())).any():
            shown = [", ".join(f"{logit:.3g}" for logit in probe_L.tolist()) for probe_L in (then_L, now_L)]
            raise ConfigError(
                f"resume: reward.path is not the model of the checkpoint (a fixed answer got {shown[0]}, now "
                f"{shown[1]}); type the reward.path that the run was started with, or start a new run with "
                "run_dir=ANOTHER_FOLDER"
            )

    def memory(self) -> dict[str, int]:
        """Bytes of the weights, and where they are if that is not the policy's device."""
        where = "" if self._shares_device else f" on {self._device}"
        return {f"weights{where}": self._classifier.weight_bytes()}

    def pause(self) -> None:
        """Moves the weights to CPU memory where they share the policy's GPU."""
        if self._shares_device:
            with self._lock:
                self._classifier.pause()

    def _values(self, rollouts: Rollouts, rows: list[int]) -> tuple[Float[Tensor, "inputs labels"], dict[int, int]]:
        """The values of the distinct inputs of these rows, and the input of each row."""
        inputs = {row: self._input_of(rollouts, row) for row in rows}
        distinct = sorted({tuple(ids["input_ids"]): ids for ids, _ in inputs.values()}.items())
        places = {tokens: n for n, (tokens, _) in enumerate(distinct)}
        cut = sum(was_cut for _, was_cut in inputs.values())
        self._classifier.count_cut(cut, len(rows), limit=self._limit)
        self._cut += cut
        logits_NL = self._classifier.logits([ids for _, ids in distinct])
        if self._activation is Activation.SOFTMAX:
            logits_NL = logits_NL.softmax(1)
        elif self._activation is Activation.SIGMOID:
            logits_NL = logits_NL.sigmoid()
        return logits_NL, {row: places[tuple(ids["input_ids"])] for row, (ids, _) in inputs.items()}

    def _input_of(self, rollouts: Rollouts, row: int) -> tuple[Encoding, bool]:
        prompt = rollouts.prompts[row // rollouts.k]
        try:
            return self._input(prompt, rollouts.texts[row])
        except TEMPLATE_ERRORS as error:
            what = f"the reward model's chat template refuses the prompt ({first_line(error)})"
            raise StageError("reward", what, positions=[prompt.position]) from error

    def _input(self, prompt: Prompt, text: str) -> tuple[Encoding, bool]:
        return judged_input(self._classifier.tokenizer, prompt, text, limit=self._limit)

    def _longest(self, max_length: int | None) -> int:
        limit = self._classifier.limit
        if max_length is not None and max_length > limit:
            raise ConfigError(
                f"reward.max_length={max_length}: the model reads at most {limit} tokens; type reward.max_length=null"
            )
        return max_length or limit

    def _check_template(self, prompt: Prompt) -> None:
        try:
            self._input(prompt, "")
        except TEMPLATE_ERRORS as error:
            raise self._classifier.refusal("its chat template refuses the task's first prompt", error) from error


def _own_device(name: str) -> torch.device:
    found = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    if name not in ("cpu", *found):
        known = ", ".join(["policy", "cpu", *found])
        raise ConfigError(f"reward.model_device={name}: there are {known}; type reward.model_device=policy")
    return torch.device(name)


def _chosen(labels: Labels, classifier: Classifier) -> tuple[dict[str, int], dict[str, float]]:
    """The column and the weight of each part. Raises ConfigError for a label that the model does not have."""
    names = classifier.labels
    if labels is None and len(names) > 1:
        typed = "type reward.labels=0, or weights as in reward.labels={0: 0.5, 1: 0.5}"
        raise ConfigError(f"reward.labels=null: the model has {len(names)} labels ({', '.join(names)}); {typed}")
    weights = labels if isinstance(labels, dict) else {labels or 0: 1.0}
    columns = {label: _column(label, names) for label in weights}
    if len(set(columns.values())) < len(columns) or not columns:
        raise ConfigError(
            f"reward.labels={labels}: different labels of {', '.join(names)} are needed; type reward.labels=0"
        )
    parts = {label: names[column] if isinstance(labels, dict) else PART for label, column in columns.items()}
    return {parts[x]: column for x, column in columns.items()}, {parts[x]: weights[x] for x in weights}


def _column(label: int | str, names: tuple[str, ...]) -> int:
    if label in names:
        return names.index(str(label))
    column = int(label) if str(label).isdecimal() else -1
    if not 0 <= column < len(names):
        known = ", ".join(f"{n} ({name})" for n, name in enumerate(names))
        raise ConfigError(
            f"reward.labels={label}: the model has no such label; there are {known}; type reward.labels=0"
        )
    return column
