"""What a run says at its start and leaves at its end: the policy with its card, pictures, summary.json."""

import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from dqo import distributed
from dqo.capabilities import Drawing, HasMemory
from dqo.config.resume import saved_overrides
from dqo.config.schema import Config
from dqo.evaluation import Evaluation
from dqo.files.atomic import replacing
from dqo.learner.update.budget import AUTO, DEFAULT
from dqo.observe.card import model_card
from dqo.observe.curves import draw_curves
from dqo.observe.metrics_file import read_metrics
from dqo.observe.summary import print_end, write_summary
from dqo.run.build import make_device
from dqo.run.export import export_policy, generation_config
from dqo.run.job import Job
from dqo.run.session import Session
from dqo.run.stopping import SWEEP_JOBS
from dqo.stages import Credit, Stages


def task_name(config: Config) -> str:
    """The task's class in small letters: "cities"."""
    return config.task["_target_"].rpartition(".")[2].lower()


def batch_line(config: Config) -> str:
    """How a step's batch comes about, in one line."""
    rows = config.prompts_per_step * config.k
    updates = config.num_iterations * config.num_mini_batches
    budget, world = config.learner.get("max_tokens_per_micro_batch"), distributed.world_size()
    micro_batches = f"micro-batches of at most {DEFAULT if budget == AUTO else budget} tokens"
    if budget == AUTO and make_device(config).type == "cuda":
        micro_batches = "micro-batches as large as the GPU's memory allows"
    return (
        f"a step: {config.prompts_per_step} prompts × k={config.k} = {rows} completions of at most "
        f"{config.max_completion_length} tokens, {'one update' if updates == 1 else f'{updates} updates'}"
        + (f"; {config.prompts_per_step // world} prompts on each of {world} workers" if world > 1 else "")
        + (f"; {micro_batches}, accumulated" if budget else "")
    )


def memory_line(stages: Stages) -> str:
    """One line with each stage's memory. Example: ``memory: rollout 0.54 GB (weights 0.54); learner …``."""
    parts = []
    for f in fields(stages):
        if isinstance(stage := getattr(stages, f.name), HasMemory) and (sizes := stage.memory()):
            listed = ", ".join(f"{what} {size / 1e9:.2f}" for what, size in sizes.items())
            parts.append(f"{f.name} {sum(sizes.values()) / 1e9:.2f} GB ({listed})")
    return f"memory: {'; '.join(parts) or 'not known'}; activations on top"


def write_report(job: Job, session: Session, before: Evaluation, after: Evaluation) -> None:
    """The policy, the pictures, and at last the summary, which says that the run is complete. A collective; rank 0
    writes."""
    config, folder = job.config, job.folder
    weights = session.stages.learner.weights() if config.checkpoint.final else iter(())
    if job.ownership is None:
        for _ in weights:  # producing them is a collective
            pass
        distributed.barrier()
        return
    job.ownership.check()
    if config.checkpoint.final:
        card = {"README.md": _card(job, session, before, after)}
        export_policy(config, session.policy, folder / "policy", weights=weights, files=card)
    title = f"{task_name(config)} · alpha = {config.alpha:g} · k = {config.k}"
    with replacing(folder / "curves.png") as path:
        draw_curves(path, lines=read_metrics(folder / "metrics.jsonl"), title=title)
    if isinstance(session.task, Drawing):
        now = f"after {config.steps} steps, alpha = {config.alpha:g}"
        first, last = ("", "") if before.n == after.n else (f", n = {before.n}", f", n = {after.n}")
        with replacing(folder / "answers.png") as path:
            session.task.draw_answers(path, [(f"before{first}", before.texts), (f"{now}{last}", after.texts)])
    settings = config.model_dump(include={"alpha", "beta", "k", "steps", "seed", "learning_rate"})
    with replacing(folder / "summary.json") as path:
        write_summary(path, settings={"task": task_name(config), **settings}, before=before, after=after)
    distributed.barrier()  # the others wait: a rank that had ended would look like a failure


def print_report(console: Console, job: Job, session: Session, before: Evaluation, after: Evaluation) -> None:
    """Before and after side by side, the run's files, and commands to type next."""
    if job.ownership:  # the others' console is silent
        print_end(
            console, run_dir=job.folder, steps=job.config.steps, before=before, after=after,
            typed=None if SWEEP_JOBS in os.environ else _typed(job, session.policy.tokenizer),
        )  # fmt: skip


def _card(job: Job, session: Session, before: Evaluation, after: Evaluation) -> str:
    policy, credit = session.policy, session.stages.credit
    return model_card(
        name=job.folder.name, base_model=policy.name, task=task_name(job.config),
        command=shlex.join(["dqo-train", *_typed(job, policy.tokenizer)]), before=before, after=after,
        credit=_credit_words(credit), update=_update_words(job.config),
        temperature=generation_config(job.config, policy).temperature, rendered=_rendered(session, after),
        hub_name=policy.origin.hub_name, **policy.origin.license,
        **job.config.model_dump(include={"alpha", "beta", "k", "steps", "learning_rate"}),
    )  # fmt: skip


def _credit_words(credit: Credit) -> str | None:
    """What earned diversity credit; None for ``credit=none``."""
    if getattr(credit, "pays_nothing", False):
        return None
    return getattr(credit, "description", f"the credit of {type(credit).__name__}")


def _update_words(config: Config) -> str:
    """Advantage and loss by their classes, and the loss's terms by name: "advantage Joint, loss Clip, term replay"."""
    advantage, loss = (node["_target_"].rpartition(".")[2] for node in (config.advantage, config.loss))
    kl = config.advantage.get("kl_coef")
    in_reward = f" with {kl:g} times the KL in the reward" if kl else ""
    terms = "".join(f", term {name}" for name in config.loss.get("terms") or {})
    return f"advantage {advantage}{in_reward}, loss {loss}{terms}"


def _rendered(session: Session, evaluation: Evaluation) -> str | None:
    """The text of the evaluation's first prompt, with the chat template's words; None where it would be tokenised in
    another way."""
    tokenizer, tokens = session.policy.tokenizer, list(evaluation.answers[0].prompt.tokens)
    text = str(tokenizer.decode(tokens))
    return text if tokenizer(text, add_special_tokens=False)["input_ids"] == tokens else None


def _typed(job: Job, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The overrides of the run's command line, without Hydra's own; paths under the folder of the start as relative
    ones, as they were typed. The day of the start is among them only where the chat template prints it."""
    hidden = ("hydra.",) if "strftime_now" in str(tokenizer.chat_template) else ("hydra.", "task.date=")
    here = re.compile(rf"(?<![\w/.-]){re.escape(str(Path.cwd()))}/")  # not in /mnt/data/x where /data is meant
    return [here.sub("", text) for text in saved_overrides(job.folder) if not text.startswith(hidden)]
