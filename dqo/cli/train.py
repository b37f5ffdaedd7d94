"""dqo-train: train a language model to be good and diverse."""

from dqo.cli import entry


def main() -> None:
    entry.run("train")


if __name__ == "__main__":
    main()
