import json

import pytest
import torch

from dqo.capabilities import Counting, EncodesTexts, HasMemory, Stateful
from dqo.embed.hidden import Hidden
from dqo.embed.texts.windows import LongTexts
from dqo.errors import ConfigError
from dqo.models.precision import Dtype
from dqo.stages import Embed
from tests.factories import make_rollouts, tiny_llama, word_tokenizer

CPU = torch.device("cpu")
TEXTS = ["w1 w2 w3", "w4", "", "w1 w2 w3", "w5 w6 w7 w8 w9", "w3 w2 w1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    tiny_llama().save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


def hidden(path, **changes) -> Hidden:
    settings = {
        "packaged": None, "layers": None, "batch_size": 4, "max_seq_length": None, "long_texts": LongTexts.windows,
        "normalize_text": [], "dtype": Dtype.FLOAT32,
    }  # fmt: skip
    return Hidden(CPU, path=None if path is None else str(path), **(settings | changes))


def alone(model, text: str, layer: int = -1) -> torch.Tensor:
    """The mean by its definition: one text, no padding."""
    ids = word_tokenizer()(text)["input_ids"] or [1]
    states_TD = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
    return torch.nn.functional.normalize(states_TD.mean(0), dim=0)


@torch.no_grad()
def test_means_of_the_last_hidden_states(folder):
    stage = hidden(folder)
    assert isinstance(stage, Embed) and isinstance(stage, EncodesTexts) and isinstance(stage, Stateful)
    assert isinstance(stage, Counting) and isinstance(stage, HasMemory)
    rows_ND = stage.encode(make_rollouts(TEXTS, 3)).flatten(0, 1)
    torch.testing.assert_close(rows_ND, torch.stack([alone(tiny_llama(), text) for text in TEXTS]), atol=1e-5, rtol=0)
    assert torch.equal(rows_ND[0], rows_ND[3])
    assert stage.memory() == {"weights": sum(p.numel() for p in tiny_llama().model.parameters()) * 4}
    assert float(rows_ND[0] @ rows_ND[5]) < 0.99  # the order of words counts


@torch.no_grad()
def test_the_first_layers_alone(folder):
    one_D = hidden(folder, layers=1).encode_texts(["w1 w2"])[0]
    model = tiny_llama()
    del model.model.layers[1:]
    torch.testing.assert_close(one_D, alone(model, "w1 w2"), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"embed.layers=3: the encoder has 2 layers; type embed.layers=2"):
        hidden(folder, layers=3)


def test_long_texts_are_read_in_windows(folder, caplog):
    long = " ".join(f"w{n % 50}" for n in range(200))  # the model has 128 positions
    assert not torch.equal(*hidden(folder).encode_texts([long, f"{long} w55 w56"]))
    stage = hidden(folder, long_texts=LongTexts.truncate, max_seq_length=16)
    assert torch.equal(*stage.encode_texts([long, f"{long} w55 w56"]))
    assert stage.counters()["truncated"] == 2 and "2 of 2 texts exceed the encoder's limit of 16 tokens" in caplog.text


def test_unknown_words_are_counted(folder, caplog):
    stage = hidden(folder)
    stage.encode_texts(["Paris Rome", "w1"])
    assert stage.counters()["unknown"] == 1 and "type embed.path=NAME of an encoder that knows them" in caplog.text


def test_resume_refuses_another_model(folder, tmp_path):
    saved = json.loads(json.dumps(hidden(folder).state_dict()))
    hidden(folder, dtype=Dtype.BFLOAT16).load_state_dict(saved)  # rounding is not another model
    tiny_llama(seed=1).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"resume: embed.path is not the encoder of the checkpoint"):
        hidden(tmp_path).load_state_dict(saved)


def test_what_cannot_be_used_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"embed.path has no value: whose hidden states\? type embed.path=MODEL"):
        hidden(None)
    with pytest.raises(ConfigError, match=r"embed.path=.*: has no config.json; type embed.path=FOLDER"):
        hidden(tmp_path)
    with pytest.raises(ConfigError, match=r"embed.max_seq_length=500: the model was made for 128 tokens at most; type"):
        hidden(folder, max_seq_length=500)
