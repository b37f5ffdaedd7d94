"""The keys of every task that has rows."""

from dataclasses import dataclass

from dqo.ranges import CompletionLength, Seed


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """See conf/task/jsonl.yaml."""

    seed: Seed  # of the order of the training prompts
    max_completion_length: CompletionLength  # tokens
    chat_template: bool  # False: a text is tokenised as it is
