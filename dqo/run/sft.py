"""dqo-sft: fine-tune on a task's demonstrations and write the model."""

import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from dqo.models import save_policy
from dqo.run.policy import demonstrations, load, warm_up


def run(config: DictConfig) -> None:
    """Writes ``RUN_DIR/policy``; prints a line every twentieth of the steps. A task's own warm start is left out: this
    is it."""
    torch.manual_seed(config.sft.seed)
    config.warm_start = False
    policy, task = load(config)
    every = max(1, config.sft.steps // 20)

    def show(step: int, loss: float) -> None:
        if step % every == 0 or step == config.sft.steps:
            print(f"step {step}/{config.sft.steps} loss {loss:.4f}", flush=True)

    loss = warm_up(config, policy.model, policy.tokenizer, demonstrations(config, task), show)
    folder = Path(config.run_dir) / "policy"
    save_policy(policy.model, policy.tokenizer, folder)
    print(f"loss {loss:.4f} nats a token over the last tenth; the model is in {folder}", file=sys.stdout)
    print(f"next: dqo-train model=hf model.path={folder} warm_start=false …")
