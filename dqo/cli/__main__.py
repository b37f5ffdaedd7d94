"""Entry points of the console commands, and ``python -m dqo.cli COMMAND …``, by which torchrun starts them."""

import sys

from dqo.cli.commands import COMMANDS


def train() -> None:
    """``dqo-train``: train a language model to be good and diverse."""
    main("train")


def sft() -> None:
    """``dqo-sft``: fine-tune a model on the demonstrations of a task."""
    main("sft")


def rm() -> None:
    """``dqo-rm``: train a reward model from preferences or scored texts."""
    main("rm")


def evaluate() -> None:
    """``dqo-eval``: measure quality and diversity of policies."""
    main("eval")


def sample() -> None:
    """``dqo-sample``: look at what a policy answers."""
    main("sample")


def serve() -> None:
    """``dqo-serve``: a reward and an encoder behind HTTP."""
    main("serve")


def report() -> None:
    """``dqo-report``: figures and one HTML page of runs, sweeps and evaluations."""
    main("report")


def main(name: str) -> None:
    """Run a command with the arguments in ``sys.argv``. Never returns."""
    try:
        from dqo.cli import entry
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dqo"):
            raise
        # dqo-rl alone installs what dqo.dpp needs
        print(f"dqo-{name}: needs the package {error.name}; type pip install 'dqo-rl[train]'", file=sys.stderr)
        sys.exit(2)
    entry.run(COMMANDS[name])


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python -m dqo.cli {'|'.join(COMMANDS)} KEY=VALUE …")
    main(sys.argv.pop(1))
