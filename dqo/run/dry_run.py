"""``dry_run=true``: what a run would do, without doing it."""

import contextlib
import sys

from rich.console import Console
from rich.text import Text

from dqo.config.advice import advice
from dqo.config.schema import Config
from dqo.models import parameter_counts
from dqo.observe.visible import visible_lines
from dqo.references import References
from dqo.row_checks import Explaining
from dqo.run.build import Policy, make_stages
from dqo.run.job import Job
from dqo.run.load_policy import load_policy
from dqo.run.references import announcement, distinct, drawn
from dqo.run.report import batch_line, memory_line
from dqo.run.session import close_stages
from dqo.run.warm_start import demonstrations_of, encoded, is_wanted
from dqo.stages import Stages

EXPLAINED = 50  # training prompts of which the reward shows some


def run(job: Job) -> None:
    """Builds every stage, so that whatever is checked before training is checked; prints the batch, the memory and the
    first rendered prompt."""
    config = job.config
    if config.rollout.get("tensor_parallel_size", 1) > 1:
        print("one process: rollout.tensor_parallel_size=1 here")
        config = config.model_copy(update={"rollout": {**config.rollout, "tensor_parallel_size": 1}})
    policy, task = load_policy(config.model_copy(update={"warm_start": False}))  # which takes minutes
    if is_wanted(config, policy.origin, task, policy.name):
        count = len(encoded(demonstrations_of(config, task), policy.model, policy.tokenizer))
        print(f"warm start: {config.sft.steps} steps on {count} demonstrations, before the first step")
    total, _ = parameter_counts(policy.model)
    with contextlib.ExitStack() as stack:
        references = References()
        stages = make_stages(config, policy, task, references)
        close_stages(stages, stack)
        if references.count:
            print(announcement(config, len(distinct(drawn(config, task))), references.count))
        _print(config, policy, stages, total)


def _print(config: Config, policy: Policy, stages: Stages, total: int) -> None:
    """``total``: parameters of the model, without adapters that the learner has added."""
    _, trained = parameter_counts(policy.model)
    prompts, _ = stages.task.draw(0, 1)
    console = Console(file=sys.stdout, highlight=False)
    console.print(batch_line(config), soft_wrap=True)
    for line in advice(config):
        console.print(Text(f"warning: {line}"), soft_wrap=True)
    console.print(f"model: {total / 1e6:.0f} M parameters, {trained / 1e6:.0f} M trained", soft_wrap=True)
    console.print(memory_line(stages), soft_wrap=True)
    if isinstance(stages.reward, Explaining):
        for line in stages.reward.explained(stages.task.draw(0, EXPLAINED)[0]):
            console.print(Text(visible_lines(line)), soft_wrap=True)
    console.print(f"the first prompt, {len(prompts[0].tokens)} tokens:")
    console.print(Text(visible_lines(str(policy.tokenizer.decode(list(prompts[0].tokens))))))
