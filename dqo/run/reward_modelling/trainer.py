"""transformers' Trainer on preference pairs and on scored texts."""

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from dqo.config.schema import Checkpoint, RewardModelling
from dqo.models.precision import Dtype
from dqo.run.reward_modelling.data import Pair, Scored

log = logging.getLogger(__name__)

LINES = 20  # of the log, over the whole training


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Pair | Scored],
    *,
    settings: RewardModelling,
    checkpoint: Checkpoint,
    device: torch.device,
    seed: int,
    folder: Path,
) -> list[dict[str, Any]]:
    """Trains the model in place and returns what was logged: step, loss, learning rate, gradient norm. ``folder``: for
    checkpoints; training goes on exactly from the newest one that is whole."""
    steps = math.ceil(math.ceil(len(rows) / settings.batch_size) * settings.epochs)
    arguments = TrainingArguments(
        output_dir=str(folder), save_strategy="steps" if checkpoint.every else "no", save_steps=checkpoint.every or 1,
        save_total_limit=checkpoint.keep_last,
        per_device_train_batch_size=settings.batch_size, num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate, lr_scheduler_type="cosine", warmup_steps=math.ceil(0.03 * steps),
        logging_steps=max(1, steps // LINES), report_to="none", eval_strategy="no", seed=seed,
        bf16=Dtype(settings.dtype).on(device) == torch.bfloat16, use_cpu=device.type == "cpu",
        gradient_checkpointing=settings.gradient_checkpointing, remove_unused_columns=False, label_names=[],
        dataloader_pin_memory=device.type == "cuda",
    )  # fmt: skip
    _ = arguments.device  # is set up at the first look, and counts the GPUs
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process has one: it would otherwise split batches over all
    trainer = _Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=_Collator(tokenizer), processing_class=tokenizer,
        center=settings.center_rewards_coefficient,
    )  # fmt: skip
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Lines())
    newest = _newest(folder)
    if newest is not None:
        log.info("going on from %s", newest)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    return [line for line in trainer.state.log_history if "loss" in line]


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole: the Trainer writes its state last. One that a kill cut short is removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]), reverse=True)
    for each in found:
        try:
            json.loads((each / TRAINER_STATE_NAME).read_text("utf-8"))
        except (OSError, ValueError):
            log.warning("%s was not written to its end and is removed", each)
            shutil.rmtree(each)
        else:
            return each
    return None


class _Collator:
    """Chosen answers first, then the rejected ones in the same order; or answers with their scores."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[Pair | Scored]) -> dict[str, Any]:
        pairs = [row for row in rows if isinstance(row, Pair)]
        scored = [row for row in rows if isinstance(row, Scored)]
        texts = [row.chosen for row in pairs] + [row.rejected for row in pairs] + [row.answer for row in scored]
        batch = dict(self._tokenizer.pad([dict(text) for text in texts], padding_side="right", return_tensors="pt"))
        return batch | ({"scores": torch.tensor([row.score for row in scored])} if scored else {})


class _Trainer(Trainer):
    loss_is_scaled_for_ga = False  # the loss is a mean over the batch

    def __init__(self, *, center: float, **given: Any):
        super().__init__(**given)
        self._center = center

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        scores_B = inputs.pop("scores", None)
        rewards_B = model(**inputs).logits.squeeze(-1).float()
        if scores_B is not None:
            return mse_loss(rewards_B, scores_B)
        return pair_loss(*rewards_B.chunk(2), center=self._center)


def pair_loss(chosen_B: Tensor, rejected_B: Tensor, *, center: float) -> Tensor:
    """Mean of -log σ(r_chosen - r_rejected) (Bradley-Terry), plus ``center`` times the mean of (r_chosen + r_rejected)²
    (Eisenstein et al., arXiv 2312.09244), in nats."""
    return -logsigmoid(chosen_B - rejected_B).mean() + center * (chosen_B + rejected_B).square().mean()


class _Lines(TrainerCallback):
    """One line of the log for what the Trainer would print as a dictionary."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        logs: Mapping[str, Any] = given.get("logs") or {}
        if "loss" in logs:
            log.info("step %d of %d: loss %.4f", state.global_step, state.max_steps, float(logs["loss"]))
