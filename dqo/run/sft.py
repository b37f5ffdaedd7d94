"""``dqo-sft``: fine-tune on a task's demonstrations and write the model."""

import torch

from dqo.models import save_policy
from dqo.run.job import Job
from dqo.run.load_policy import load_policy
from dqo.run.warm_start import demonstrations_of, finetune_as_configured


def run(job: Job) -> None:
    """Writes ``RUN_DIR/policy``; prints a line each twentieth of the steps. A task's own warm start is left out: this
    command is one."""
    config, steps = job.config.model_copy(update={"warm_start": False}), job.config.sft.steps
    torch.manual_seed(config.sft.seed)
    policy, task = load_policy(config)
    demonstrations = demonstrations_of(config, task)
    job.begin()

    def show(step: int, loss: float) -> None:
        if step % max(1, steps // 20) == 0 or step == steps:
            print(f"step {step}/{steps} loss {loss:.4f}", flush=True)

    loss = finetune_as_configured(config, policy.model, policy.tokenizer, demonstrations, show)
    folder = job.folder / "policy"
    save_policy(policy.model, policy.tokenizer, folder)
    print(f"loss {loss:.4f} nats a token over the last tenth; the model is in {folder}")
    print(f"next: dqo-train model=hf model.path={folder} warm_start=false …")
