"""OpenRLHF's form of a remote reward model (its ``--reward.remote_url``, version 0.11.0): texts with special tokens, a
number of each."""

import json
import math
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

FLOAT32_MAX = 3.4028234663852886e38


def query_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], start: int) -> tuple[str, str]:
    """The text of the prompt, the tokens before ``start``, and that of prompt and completion, which begins with it:
    services cut it off. Special tokens are in both."""
    prompt = str(tokenizer.decode(list(ids[:start]), skip_special_tokens=False))
    query = str(tokenizer.decode(list(ids), skip_special_tokens=False))
    if not query.startswith(prompt):  # a character's bytes are on both sides
        query = prompt + str(tokenizer.decode(list(ids[start:]), skip_special_tokens=False))
    return prompt, query


def rewards_in(reply: bytes, count: int) -> list[float]:
    """``rewards`` of the reply. Raises ValueError that says in one line what is wrong."""
    body = json.loads(reply)
    if not isinstance(body, dict) or not isinstance(body.get("rewards"), list):
        raise ValueError('an object with the list "rewards" is needed')
    rewards = body["rewards"]
    if len(rewards) != count:
        raise ValueError(f'"rewards" has {len(rewards)} values for {count} texts')
    for number, value in enumerate(rewards):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or math.isnan(value) or abs(value) > FLOAT32_MAX:
            raise ValueError(f'"rewards"[{number}] is {value!r:.40}, a finite number is needed')
    return [float(value) for value in rewards]
