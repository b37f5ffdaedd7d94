"""The table of console commands.

A new command is a row here, an entry point in ``__main__.py`` and pyproject.toml, ``conf/NAME.yaml`` with its help text
``conf/hydra/help/NAME.yaml``, and the function that its row names (docs/development.md).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Command:
    """``dqo-NAME`` composes ``conf/NAME.yaml`` and calls ``run`` in worker processes."""

    name: str
    run: str  # "module:function", called with a ``run.job.Job`` on every rank; imported in the worker, which has torch
    holds: tuple[str, ...]  # if one of these exists, the folder holds a run and is not written over
    resumable: bool  # whether resume= goes on with its folder
    multi_rank: bool  # whether it runs on several ranks, ``nproc`` or one per GPU; False: on one


COMMANDS = {
    command.name: command
    for command in (
        Command(
            name="train",
            run="dqo.run.training:run",
            holds=("config.yaml", "metrics.jsonl", "checkpoints", "policy"),
            resumable=True,
            multi_rank=True,
        ),
        Command(
            name="sft",
            run="dqo.run.sft:run",
            holds=("metrics.jsonl", "policy"),
            resumable=False,
            multi_rank=False,
        ),
    )
}
