from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from dqo.credit.steps.finding import Splitting, step_starts, steps_of, token_ends
from tests.credit.byte_tokens import TOKENIZER, sampled


@pytest.mark.parametrize(
    ("text", "splitting", "steps"),
    [
        ("one\ntwo. Three\n\n  four", Splitting.lines, ["one\n", "two. Three\n\n  ", "four"]),
        ("one\ntwo. Three! 1.5 is", Splitting.sentences, ["one\n", "two. ", "Three! ", "1.5 is"]),
        ("1. First. 2. Second", Splitting.sentences, ["1. First. ", "2. Second"]),
        ("你好。再见", Splitting.sentences, ["你好。", "再见"]),
        ("\n\none\n \n", Splitting.lines, ["\n\none\n \n"]),
        (" \n ", Splitting.lines, []),
        ("", Splitting.sentences, []),
    ],
)
def test_steps_are_whole_parts_of_the_text(text, splitting, steps):
    marks = [*step_starts(text, splitting), len(text)]
    assert [text[a:b] for a, b in pairwise(marks)] == steps


@pytest.mark.parametrize("finished", [True, False])
def test_each_token_belongs_to_one_step_and_the_end_token_to_none(finished):
    rollouts = sampled(["ab\nä😀 b\n\nb.\nca", "a"], 2, finished=finished)
    steps = steps_of(rollouts, 0, TOKENIZER, Splitting.lines)
    assert [step.text for step in steps] == ["ab", "ä😀 b", "b.", "ca"]
    parts = [TOKENIZER.decode(rollouts.tokens_BT[0, step.start : step.end].tolist()) for step in steps]
    assert parts == ["ab\n", "ä😀 b\n\n", "b.\n", "ca"]
    start, end = len(rollouts.prompts[0].tokens), int(rollouts.lengths_B[0]) - finished
    assert [step.start for step in steps] == [start, *[step.end for step in steps[:-1]]] and steps[-1].end == end


def test_a_token_that_two_steps_share_belongs_to_the_later_one():
    rollouts = sampled(["b\nca", "a"], 2)  # "\nc" is one token
    steps = steps_of(rollouts, 0, TOKENIZER, Splitting.lines)
    assert [TOKENIZER.decode(rollouts.tokens_BT[0, step.start : step.end].tolist()) for step in steps] == ["b", "\nca"]


def test_spaces_at_the_start_of_a_text_and_special_tokens_within_one_are_not_counted_twice():
    words = Tokenizer(models.WordLevel({"<eos>": 0, "▁a": 1, "▁bc": 2, "<unk>": 3}, unk_token="<unk>"))
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    assert tokenizer.decode([1, 0, 2, 1], skip_special_tokens=True) == "a bc a"
    assert token_ends([1, 0, 2, 1], tokenizer) == [1, 1, 4, 6]


@pytest.mark.parametrize("text", ["", "a", "ä😀 b", "a\nä"])
def test_bytes_of_one_character_end_with_it(text):
    tokens = TOKENIZER.encode(text, add_special_tokens=False)
    assert token_ends(tokens, TOKENIZER) == [n for n, char in enumerate(text, 1) for _ in char.encode()]
