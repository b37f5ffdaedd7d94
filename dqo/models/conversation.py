"""A prompt and its completion as the input of a model that judges answers: training and use of a reward model share
it."""

from collections.abc import Mapping
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from dqo.records import Prompt

Encoding = Mapping[str, list[int]]  # input_ids, and token_type_ids where the tokenizer has them


def conversation(prompt: Prompt, text: str) -> list[dict[str, Any]]:
    """The prompt's turns, and the completion as the assistant's; a prompt of plain text is the user's turn."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": prompt.content}]
    if not isinstance(prompt.content, str):
        turns = [dict(message) for message in prompt.content[: -1 if prompt.prefill else None]]
    return [*turns, {"role": "assistant", "content": prompt.prefill + text}]


def conversation_tokens(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> list[int]:
    """In the tokenizer's own chat template. Raises one of ``templates.TEMPLATE_ERRORS`` where the template refuses the
    prompt."""
    return cast(list[int], tokenizer.apply_chat_template(conversation(prompt, text), return_dict=False))


def judged_input(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str, *, limit: int) -> tuple[Encoding, bool]:
    """Prompt and completion in at most ``limit`` tokens, and whether the prompt was cut for that, from its start.

    As a conversation if the tokenizer has a chat template, else as a pair of texts. A beginning-of-text token stays. Of
    a completion that is longer than ``limit`` alone the end is left.
    """
    if tokenizer.chat_template:
        ids = conversation_tokens(tokenizer, prompt, text)
        kept = 1 if ids[0] == tokenizer.bos_token_id and limit > 1 else 0
        return {"input_ids": ids if len(ids) <= limit else ids[:kept] + ids[kept - limit :]}, len(ids) > limit
    *turns, answer = conversation(prompt, text)
    pair = ("\n".join(turn.get("content") or "" for turn in turns), answer["content"])
    whole = tokenizer(*pair, verbose=False)
    excess = len(whole["input_ids"]) - limit
    if excess <= 0:
        return whole, False
    tokenizer.truncation_side = "left"
    first = len(tokenizer(pair[0], add_special_tokens=False, verbose=False)["input_ids"])
    strategy = "only_first" if excess < first else "longest_first"
    return tokenizer(*pair, truncation=strategy, max_length=limit), True
