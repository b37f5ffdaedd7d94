import pytest
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from dqo.reward.services.openrlhf import query_of, rewards_in
from tests.factories import word_tokenizer


def test_the_query_begins_with_the_prompt_and_keeps_special_tokens():
    prompt, query = query_of(word_tokenizer(), [3, 4, 5, 1], 2)
    assert (prompt, query) == ("w0 w1", "w0 w1 w2 <eos>")


def test_a_decoder_that_joins_what_is_on_both_sides_is_not_followed():
    vocabulary = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    ids = fast("ä")["input_ids"]
    assert len(ids) == 2
    assert query_of(fast, ids, 1) == ("\ufffd", "\ufffd\ufffd")


def test_rewards_of_older_and_newer_servers():
    assert rewards_in(b'{"rewards": [1, 0.25]}', 2) == [1.0, 0.25]
    assert rewards_in(b'{"rewards": [1], "scores": [0.1], "extra_logs": {"x": [2]}}', 1) == [1.0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"{", "Expecting"),
        (b"[1, 2]", 'an object with the list "rewards" is needed'),
        (b'{"rewards": 1}', 'an object with the list "rewards" is needed'),
        (b'{"rewards": [1]}', r'"rewards" has 1 values for 2 texts'),
        (b'{"rewards": [1, 2, 3]}', r'"rewards" has 3 values for 2 texts'),
        (b'{"rewards": [1, null]}', r'"rewards"\[1\] is None, a finite number is needed'),
        (b'{"rewards": [NaN, 1]}', r'"rewards"\[0\] is nan, a finite number is needed'),
        (b'{"rewards": [1, Infinity]}', r'"rewards"\[1\] is inf, a finite'),
        (b'{"rewards": [1, 1e39]}', r'"rewards"\[1\] is 1e\+39, a finite'),
        (b'{"rewards": ["1", 1]}', r"\[0\] is '1', a finite"),
        (b'{"rewards": [true, 1]}', r"\[0\] is True, a finite"),
        (b'{"rewards": [[1], [2]]}', r"\[0\] is \[1\], a finite"),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused(reply, message):
    with pytest.raises(ValueError, match=message):
        rewards_in(reply, 2)
