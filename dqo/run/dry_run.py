"""dry_run=true: what a run would do, without doing it."""

import sys

from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from dqo.models import parameter_counts
from dqo.observe.visible import visible_lines
from dqo.run.build import make_stages
from dqo.run.policy import load
from dqo.run.training import batch_line

BYTES_TRAINED = 16  # fp32 weight, gradient and AdamW's two moments
BYTES_SAMPLING = {"float32": 4}  # the rollout's own copy; else two bytes


def run(config: DictConfig) -> None:
    """Builds every stage, so that whatever is checked before training is checked, and prints batch, memory and the
    first rendered prompt."""
    if config.rollout.get("tensor_parallel_size", 1) > 1:
        print("one process: rollout.tensor_parallel_size=1 here")
        config.rollout.tensor_parallel_size = 1
    policy, task = load(config)
    total, _ = parameter_counts(policy.model)
    stages = make_stages(config, policy, task)
    _, trained = parameter_counts(policy.model)
    logits = config.learner.get("max_tokens_per_micro_batch", 0) * policy.model.config.get_text_config().vocab_size * 4
    prompts, _ = stages.task.draw(0, 1)
    console = Console(file=sys.stdout, highlight=False)
    console.print(batch_line(config), soft_wrap=True)
    console.print(
        f"memory: {total / 1e6:.0f} M parameters, {trained / 1e6:.0f} M trained: about "
        f"{(4 * (total - trained) + BYTES_TRAINED * trained) / 1e9:.2f} GB for the learner, "
        f"{BYTES_SAMPLING.get(str(config.rollout.get('dtype')), 2) * total / 1e9:.2f} GB for the rollout's copy, "
        f"up to {logits / 1e9:.2f} GB for a micro-batch's logits, activations on top",
        soft_wrap=True,
    )
    console.print(f"the first prompt, {len(prompts[0].tokens)} tokens:")
    console.print(Text(visible_lines(str(policy.tokenizer.decode(list(prompts[0].tokens))))))
