"""The table of console commands.

A new command is a row here, an entry point in ``__main__.py`` and pyproject.toml, ``conf/NAME.yaml`` with its help text
``conf/hydra/help/NAME.yaml``, and the function that its row names (docs/development.md).
"""

import pkgutil
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Command:
    """``dqo-NAME`` composes ``conf/NAME.yaml`` and calls ``run`` in worker processes."""

    name: str
    run: str  # "module:function", called with a ``run.job.Job`` on every rank; imported in the worker, which has torch
    holds: tuple[str, ...]  # if one of these exists, the folder holds a run and is not written over
    resumable: bool  # whether resume= goes on with its folder
    keeps: str = ""  # what a run that was stopped has kept; empty: its newest checkpoint
    when_complete: str = ""  # what to type for a run that is done; empty: more steps
    multi_rank: bool  # whether it runs on several ranks, ``nproc`` or one per GPU; False: on one
    schema: str = "dqo.config.schema:Config"  # "module:class" of the resolved configuration
    reads: tuple[str, ...] = ()  # the top-level keys and groups that it reads or refuses; empty: all
    # the key that arguments without "=" are values of: "policies", "runs"; None: there are none
    takes: str | None = None
    takes_several: bool = True  # of these values
    has_folder: bool = True  # False: it works in a temporary folder and leaves nothing
    has_worker: bool = True  # False: ``run`` is called with the configuration, in this process and without torch

    def config_class(self) -> Any:
        """The class that ``schema`` names."""
        return pkgutil.resolve_name(self.schema)


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
        Command(
            name="rm",
            run="dqo.run.rm:run",
            schema="dqo.config.schema:RmConfig",
            reads=("rm", "model", "run_dir", "seed", "device", "checkpoint", "resume", "objective", "dry_run", "nproc"),
            holds=("config.yaml", "metrics.jsonl", "checkpoints", "model"),
            resumable=True,
            when_complete="run_dir=ANOTHER_FOLDER to train anew",
            multi_rank=False,
        ),
        Command(
            name="eval",
            run="dqo.run.evaluate:run",
            schema="dqo.config.schema:EvalConfig",
            holds=("config.yaml", "completions", "eval.json"),
            resumable=True,
            when_complete="other eval.metrics= to measure more",
            keeps="finished prompts are kept",
            multi_rank=True,
            takes="policies",
        ),
        Command(
            name="sample",
            run="dqo.run.sample:run",
            schema="dqo.config.schema:SampleConfig",
            holds=(),
            resumable=False,
            multi_rank=False,
            takes="policies",
            takes_several=False,
            has_folder=False,
        ),
        Command(
            name="serve",
            run="dqo.run.serve:run",
            schema="dqo.config.schema:ServeConfig",
            holds=(),
            resumable=False,
            multi_rank=False,
            has_folder=False,
        ),
        Command(
            name="report",
            run="dqo.run.make_report:run",
            schema="dqo.config.schema:ReportConfig",
            holds=(),
            resumable=False,
            multi_rank=False,
            takes="runs",
            has_folder=False,
            has_worker=False,
        ),
    )
}
