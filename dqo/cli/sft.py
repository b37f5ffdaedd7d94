"""dqo-sft: fine-tune a model on the demonstrations of a task."""

from dqo.cli import entry


def main() -> None:
    entry.run("sft")


if __name__ == "__main__":
    main()
