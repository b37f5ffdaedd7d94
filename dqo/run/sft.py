"""``dqo-sft``: fine-tune on a task's demonstrations and write the model."""

import logging

import torch

from dqo.run.export import export_policy
from dqo.run.job import Job
from dqo.run.load_policy import load_policy
from dqo.run.warm_start import demonstrations_of, encoded, finetune_as_configured, fingerprint

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Writes ``RUN_DIR/policy``. A task's own warm start is left out: this command is one."""
    config, folder = job.config.model_copy(update={"warm_start": False}), job.folder / "policy"
    torch.manual_seed(config.sft.seed)
    policy, task = load_policy(config, judged=False)
    examples = encoded(demonstrations_of(config, task), policy.model, policy.tokenizer)
    job.begin()
    log.info("dqo-sft: %d steps on %d demonstrations of the task", config.sft.steps, len(examples))
    loss = finetune_as_configured(config, policy.model, examples, what="dqo-sft")
    export_policy(config, policy, folder, warm_start=fingerprint(task))
    print(f"loss {loss:.4f} nats a token over the last tenth; the model is in {folder}")
    print(f"next: dqo-train model=hf model.path={folder} …")
