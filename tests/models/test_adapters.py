import json

import pytest
import torch

from dqo.errors import ConfigError
from dqo.models.adapters import CONFIG, WEIGHTS, read_adapter
from dqo.models.classifier import Classifier
from tests.helpers.classifiers import pair_tokenizer, save_adapter

PAIRS = [("a b c d", "b"), ("c", "d"), ("so so so", "yes a b c d a b c d")]


def classifier(folder, **changes) -> Classifier:
    settings = {"key": "reward.path", "device": torch.device("cpu"), "dtype": torch.float32} | changes
    return Classifier(str(folder), **settings)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_merged_adapter_gives_what_peft_gives(tmp_path, labels, capfd):
    adapted = save_adapter(tmp_path / "adapter", tmp_path / "base", labels=labels)
    expected = []
    for pair in PAIRS:
        with torch.no_grad():
            expected.append(adapted(**pair_tokenizer()(*pair, return_tensors="pt", return_token_type_ids=False)).logits)
    given = classifier(tmp_path / "adapter")
    capfd.readouterr()
    logits_NL = given.pair_logits(PAIRS)
    assert "MISSING" not in "".join(capfd.readouterr())  # the base has no head
    torch.testing.assert_close(logits_NL, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert logits_NL.std(0).min() > 1e-2
    assert len(given.labels) == labels


def test_reading_one_draws_no_random_numbers_and_a_second_time_is_the_same(tmp_path):
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    given = classifier(tmp_path / "adapter")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = given.pair_logits(PAIRS)
    assert torch.equal(torch.get_rng_state(), before)
    given.release()
    assert torch.equal(given.pair_logits(PAIRS), first)


def test_in_bfloat16_all_but_the_head_is(tmp_path):
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    model = classifier(tmp_path / "adapter", dtype=torch.bfloat16).model
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert wide == {"score.weight"}


def test_a_base_beside_the_adapter_is_found(tmp_path):
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    edit(base_model_name_or_path="base")(tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter").base == str(tmp_path / "base")


def edit(**changes):
    def spoil(folder):
        file = folder / CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(task_type="CAUSAL_LM"), "is an adapter with peft_type=LORA task_type=CAUSAL_LM, not a LoRA of a classif"),
        (edit(peft_type="PREFIX_TUNING"), "peft_type=PREFIX_TUNING"),
        (edit(base_model_name_or_path=None), "does not name its base model; write base_model_name_or_path there"),
        (edit(base_model_name_or_path="no/such/place"), "its base model no/such/place is neither a folder nor"),
        (lambda folder: (folder / CONFIG).write_text("[]"), "adapter_config.json cannot be read"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is an adapter without adapter_model.safetensors"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"no"), "adapter_model.safetensors cannot be read"),
        (lambda folder: (folder.parent / "base" / "config.json").unlink(), "its base model .*base has no config.json"),
    ],
)
def test_what_is_no_adapter_of_a_classifier_is_refused_in_one_line(tmp_path, spoil, message):
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    spoil(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=message) as refused:
        classifier(tmp_path / "adapter")
    assert str(refused.value).startswith("reward.path=") and "\n" not in str(refused.value)


def test_an_adapter_of_another_model_is_refused_where_its_weights_are_read(tmp_path):
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    save_adapter(tmp_path / "other", tmp_path / "other_base", labels=2)
    (tmp_path / "other" / WEIGHTS).replace(tmp_path / "adapter" / WEIGHTS)
    edit(r=2)(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="the weights could not be read"):
        classifier(tmp_path / "adapter").pair_logits(PAIRS)
