import gc
import logging
import weakref

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    Gemma2Config,
    ModernBertConfig,
    RobertaConfig,
)

from dqo.errors import ConfigError, StageError
from dqo.models import classifier as module
from dqo.models.classifier import Classifier
from tests.factories import tiny_llama
from tests.helpers.classifiers import edit_config, pair_tokenizer, save_classifier

CPU = torch.device("cpu")
TINY = {
    "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "pad_token_id": 0, "num_labels": 3, "initializer_range": 0.5,
}  # fmt: skip
BERT = BertConfig(**TINY)
CONFIGS = {
    "bert": BERT,
    "roberta": RobertaConfig(**TINY, type_vocab_size=1),
    "deberta": DebertaV2Config(
        **TINY, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], share_att_key=True,
        position_biased_input=False, type_vocab_size=0, norm_rel_ebd="layer_norm",
    ),
    "modernbert": ModernBertConfig(**TINY, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2),
    "gemma2": Gemma2Config(**TINY, head_dim=8, num_key_value_heads=1, attn_logit_softcapping=0.5, sliding_window=4),
}  # fmt: skip
PAIRS = [("a b c d", "b"), ("c", "d"), ("", "no"), ("so so so", "yes a b c d a b c d"), ("a", "a")]


def classifier(folder, **changes) -> Classifier:
    return Classifier(str(folder), **({"key": "eval.nli", "device": CPU, "dtype": torch.float32} | changes))


@pytest.fixture
def bert(tmp_path):
    return save_classifier(tmp_path / "bert", BERT)


@pytest.mark.parametrize("name", CONFIGS)
def test_batches_give_what_transformers_gives_for_one_pair_after_another(name, tmp_path):
    folder = save_classifier(tmp_path, CONFIGS[name])
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = pair_tokenizer()
    expected = []
    for first, second in PAIRS:
        tokens = tokenizer(first, second, return_tensors="pt", return_token_type_ids=name == "bert")
        with torch.no_grad():
            expected.append(model(**tokens).logits[0])
    logits_NL = classifier(folder).pair_logits(PAIRS)
    torch.testing.assert_close(logits_NL, torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert logits_NL.std(0).min() > 1e-3  # of a kind that would show a mix-up


def test_small_batches_give_the_same(bert):
    whole = classifier(bert).pair_logits(PAIRS)
    torch.testing.assert_close(classifier(bert, batch_tokens=10).pair_logits(PAIRS), whole, atol=1e-5, rtol=1e-5)


def test_batches_hold_few_tokens_and_longest_come_first():
    lengths = [3, 9000, 2, 8000, 8000]
    by_length = sorted(range(5), key=lambda i: -lengths[i])
    assert module._batches(by_length, lengths, 16_384) == [[1], [3, 4], [0, 2]]
    assert [len(batch) for batch in module._batches(range(130), [1] * 130, 16_384)] == [64, 64, 2]
    assert module._batches([0], [10**6], 16_384) == [[0]]


def test_a_pair_that_is_too_long_is_cut_and_counted(tmp_path, caplog):
    folder = save_classifier(tmp_path, BertConfig(**TINY, max_position_embeddings=8))
    long = " ".join("abcd" * 5)
    given = classifier(folder)
    with caplog.at_level(logging.WARNING):
        logits_NL = given.pair_logits([(long, "no"), ("yes", "no")])
    torch.testing.assert_close(logits_NL[0], given.pair_logits([("a b c d", "no")])[0])
    assert "eval.nli: 1 of 2 inputs are longer than 8 tokens and are cut" in caplog.text


def test_weights_are_read_at_the_first_question_and_again_after_release(bert):
    given = classifier(bert)
    assert given._model is None
    first, model = given.pair_logits(PAIRS), weakref.ref(given.model)
    given.release()
    gc.collect()
    assert model() is None  # nothing holds its memory
    assert torch.equal(given.pair_logits(PAIRS), first)


def test_reading_a_model_draws_no_random_numbers(bert):
    """A run with a scorer is to train as the run without."""
    torch.manual_seed(1)
    given = classifier(bert)
    before = torch.get_rng_state()
    given.pair_logits(PAIRS)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_in_bfloat16(bert):
    given = classifier(bert, device=torch.device("cuda"), dtype=torch.bfloat16)
    torch.testing.assert_close(given.pair_logits(PAIRS), classifier(bert).pair_logits(PAIRS), atol=0.2, rtol=0.1)
    assert {parameter.device.type for parameter in given.model.parameters()} == {"cuda"}


def test_logits_that_are_not_finite_are_no_labels(bert):
    given = classifier(bert)
    with torch.no_grad():
        given.model.classifier.bias.fill_(torch.nan)
    with pytest.raises(StageError, match="logits that are not finite"):
        given.pair_logits(PAIRS)


def causal(folder) -> None:
    tiny_llama().save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)


def pickled(folder) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def run_folder(folder) -> None:
    """What dqo-rm writes the model into: the folder beside the one to name."""
    (folder / "model").mkdir()
    (folder / "config.json").rename(folder / "model" / "config.json")


def without_tokenizer(folder) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (causal, r"is no sequence classifier \(LlamaForCausalLM\)"),
        (pickled, r"pytorch_model.bin is a pickle"),
        (without_tokenizer, "has no tokenizer; copy the files of the one it was trained with into"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json; type"),
        (run_folder, "has no config.json, but its folder model has one; type"),
        (lambda folder: (folder / "config.json").write_text("{"), "its config.json cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter with peft_type=None"),
        (lambda folder: edit_config(folder, auto_map={"AutoConfig": "evil.C"}, model_type="x"), "cannot be read"),
    ],
)
def test_a_folder_that_is_no_classifier_is_refused_at_once(bert, spoil, message):
    spoil(bert)
    with pytest.raises(ConfigError, match=message) as refused:
        classifier(bert)
    assert str(refused.value).startswith("eval.nli=")
    assert str(refused.value).endswith("; type eval.nli=FOLDER or ORG/NAME of the hub")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, "the weights lack 16 tensors, such as bert.encoder.layer.2"),
        ({"id2label": {"0": "a", "1": "b"}}, "the weights have another shape: classifier.bias has"),
    ],
)
def test_weights_of_another_shape_are_refused_where_they_are_read(bert, changes, message):
    edit_config(bert, **changes)
    with pytest.raises(ConfigError, match=message):
        classifier(bert).pair_logits(PAIRS)


@pytest.mark.parametrize("path", ["no/such/folder", "name-of-nothing"])
def test_a_path_that_is_no_folder_is_refused(path):
    with pytest.raises(ConfigError, match=rf"^eval.nli={path}: .*; type eval.nli=FOLDER"):
        classifier(path)


def test_weights_are_read_onto_the_gpu_of_the_rank(monkeypatch):
    """transformers reads them in threads of its own, for which "cuda" is GPU 0."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert module.numbered(torch.device("cuda")) == torch.device("cuda", 3)
    assert module.numbered(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert module.numbered(CPU) == CPU
