import pytest
import torch

from dqo.errors import ConfigError
from dqo.models.tiny import COUNTDOWN, Tiny

CONCEPTS = "dqo.task.concepts.Concepts"
SIZES = {"hidden_size": 128, "intermediate_size": 344, "layers": 4, "heads": 4, "context_length": 64}


def test_size_dtype_and_tied_head():
    model = Tiny(**SIZES, seed=0, words_of=CONCEPTS).load()
    assert 0.75e6 < model.num_parameters() < 0.85e6
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_tokenizer_knows_every_word_of_the_task():
    tokenizer = Tiny(**SIZES, seed=0, words_of=CONCEPTS).load_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    text = "in the park , a shy dog hid the ball ."
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.split())
    assert tokenizer.unk_token_id not in tokens
    assert tokenizer.decode(tokens) == text
    assert tokenizer("zeppelin")["input_ids"] == [2]
    assert len(tokenizer) == Tiny(**SIZES, seed=0, words_of=CONCEPTS).load().config.vocab_size


def test_the_words_of_task_countdown():
    tiny = Tiny(**SIZES, seed=0, words_of=COUNTDOWN)
    tokenizer = tiny.load_tokenizer()
    text = "2 3 4 6 10 11 = 12 : ( 11 - 3 ) / 2 * 4 + 6"
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == tiny.load_config().vocab_size


def test_weights_depend_on_the_seed_and_torchs_generator_is_not_changed():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    weights = [Tiny(**SIZES, seed=seed, words_of=CONCEPTS).load().lm_head.weight for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("sizes", [{"heads": 3}, {"hidden_size": 100, "heads": 4}, {"layers": 10**8}])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ConfigError, match=f"model.{next(iter(sizes))}|model.hidden_size"):
        Tiny(**(SIZES | sizes), seed=0, words_of=CONCEPTS)
