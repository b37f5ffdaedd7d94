import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, DebertaV2Config

from dqo.errors import ConfigError, StageError
from dqo.metrics.noveltybench import partition
from dqo.records import Prompt
from dqo.scorers.novelty import NoveltyBench, RewardModel, SameAnswer
from tests.helpers.classifiers import (
    edit_config,
    pair_tokenizer,
    save_classifier,
    save_last_word_classifier,
)

CPU = torch.device("cpu")
PROMPT = Prompt(position=7, tokens=(1,), content="a b", columns={})
LONG = "b b b b b"  # with a word more, too long for the rule of words


def same_answer(folder, logits) -> SameAnswer:
    path = save_last_word_classifier(folder, logits, ["different", "same"])
    return SameAnswer(str(path), device=CPU)


def reward_model(folder, rewards) -> RewardModel:
    path = save_last_word_classifier(folder, {word: [value] for word, value in rewards.items()}, ["score"])
    return RewardModel(str(path), device=CPU, dtype=torch.float32)


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


@pytest.fixture
def deberta(tmp_path):
    config = DebertaV2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0,
        num_labels=2, initializer_range=0.5, relative_attention=True, position_buckets=8, share_att_key=True,
        pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, norm_rel_ebd="layer_norm",
    )  # fmt: skip
    return save_classifier(tmp_path / "deberta", config)


def by_noveltybench(model, tokenizer, first: str, second: str) -> float:
    """P(same) as the function classifier_score in NoveltyBench's src/partition.py has it: one pair, joined by hand."""
    ids, lengths = [tokenizer.cls_token_id], []
    for text in (first, second):
        ids += tokenizer.encode(text, truncation=True, max_length=128, add_special_tokens=False)
        ids.append(tokenizer.sep_token_id)
        lengths.append(len(ids))
    types = [0] * lengths[0] + [1] * (lengths[1] - lengths[0])
    with torch.no_grad():
        output = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
    return float(output.logits.softmax(-1)[0, 1])


def test_the_same_as_noveltybenchs_own_code(deberta):
    """Texts of up to 300 words: each is cut at 128 tokens by itself."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(deberta).eval(), pair_tokenizer()
    generator = torch.Generator().manual_seed(0)
    words = [["a", "b", "c", "d", "so"][i] for i in torch.randint(5, (300,), generator=generator)]
    texts = [" ".join(words[start:end]) for start, end in ((0, 6), (7, 20), (0, 129), (0, 300), (100, 300))]
    pairs = [(first, second) for first in texts for second in texts]
    given = SameAnswer(str(deberta), device=CPU)
    ids = {text: tokenizer.encode(text, add_special_tokens=False)[:128] for text in texts}
    logits_NL = given._classifier.logits([given._joined(ids[a], ids[b]) for a, b in pairs])
    expected = torch.tensor([by_noveltybench(model, tokenizer, *pair) for pair in pairs])
    torch.testing.assert_close(logits_NL.softmax(1)[:, 1], expected, atol=1e-5, rtol=0)
    assert given(pairs) == [probability > 0.102 for probability in expected.tolist()]


@pytest.mark.parametrize(("probability", "same"), [(0.103, True), (0.101, False), (0.9, True)])
def test_the_same_from_a_probability_of_102_in_a_thousand(tmp_path, probability, same):
    assert same_answer(tmp_path, {"yes": [0.0, logit(probability)]})([("no", "yes")]) == [same]


def test_classes_by_the_classifier(tmp_path):
    """Long texts are the same where the second ends in yes; the first of a class speaks for it. A reward of -9, -6.1
    and 0 is a score of 1, 3 and 10 by the thresholds."""
    different = {word: [9.0, 0.0] for word in ("no", "so", "d")}
    bench = NoveltyBench(
        same=same_answer(tmp_path / "same", {"yes": [0.0, 9.0], **different}),
        reward=reward_model(tmp_path / "reward", {"no": -9.0, "yes": 0.0, "so": -6.1}),
    )
    score = bench(PROMPT, [f"{LONG} no", f"{LONG} so", f"{LONG} yes", "d"])
    assert (score.distinct_k, score.partition) == (3.0, "classifier")  # {no, yes}, {so}, {d}
    weights = [1, 0.8, 0.64, 0.512]
    assert score.utility_k == pytest.approx((1 * 1 + 0.8 * 3 + 0.512 * 10) / sum(weights))  # d: reward 0, a score of 10


def test_classes_by_words_and_embeddings_without_a_classifier():
    texts = [f"{LONG} no", f"{LONG} **yes**", "Paris", "paris", f"{LONG} so"]
    embeddings_KD = torch.tensor([[1.0, 0, 0], [0.71, 0.704, 0], [0, 1, 0], [1, 0, 0], [0.69, 0, 0.724]])
    score = NoveltyBench()(PROMPT, texts, embeddings_KD)
    assert score.distinct_k == 3.0  # {no, yes} by a cosine over .7, {Paris, paris} by words, {so}
    assert math.isnan(score.utility_k)
    assert score.partition == "words and embeddings"


def test_every_pair_that_the_partition_asks_for_is_known(tmp_path):
    """Whatever the classes are: repeated texts, markdown, short and long ones."""
    texts = [f"{LONG} {word}" for word in ("no", "**no**", "yes", "so", "yes")] + ["d", "d d", f"{LONG} so"]
    for only in ("no", "yes", "so"):
        expected = partition(texts, lambda first, text, only=only: text.endswith(only))
        logits = {word: ([0.0, 9.0] if word == only else [9.0, 0.0]) for word in ("no", "yes", "so", "d")}
        bench = NoveltyBench(same=same_answer(tmp_path, logits))
        assert bench(PROMPT, texts).distinct_k == len({*expected})


def test_nothing_to_compare_is_undefined():
    score = NoveltyBench()(PROMPT, [], torch.zeros(0, 4))
    assert math.isnan(score.distinct_k)
    assert math.isnan(score.utility_k)


@pytest.mark.parametrize(
    ("reward", "score"),
    [(-7.72, 1), (-7.7, 2), (-6.1, 3), (-5.9, 4), (-5.6, 5), (-5.2, 6), (-4.5, 7), (-4.0, 8), (-3.0, 9), (9.0, 10)],
)
def test_scores_by_the_thresholds(tmp_path, reward, score):
    assert reward_model(tmp_path, {"yes": reward})(PROMPT, ["so", "b yes"])[1] == score


def test_the_reward_model_reads_a_conversation(tmp_path, monkeypatch):
    rewards = reward_model(tmp_path, {"yes": 1.0})
    seen = []
    template = rewards._classifier.tokenizer.apply_chat_template
    monkeypatch.setattr(
        rewards._classifier.tokenizer, "apply_chat_template",
        lambda turns, **settings: seen.append(turns) or template(turns, **settings),
    )  # fmt: skip
    rewards(PROMPT, ["c"])
    turns = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "so "})
    rewards(Prompt(position=0, tokens=(1,), content=turns, columns={}), ["yes"])
    assert seen == [
        [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "so yes"}],  # words that the prompt began
    ]


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    rewards = reward_model(tmp_path, {})
    rewards._classifier.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(StageError, match=r"prompts 7\] its chat template refuses the prompt \(System role not"):
        rewards(PROMPT, ["c"])


def test_models_of_another_kind_are_refused(tmp_path, deberta):
    three = save_last_word_classifier(tmp_path / "three", {}, ["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"^eval.novelty.classifier=.* has 3 labels, not two"):
        SameAnswer(str(three), device=CPU)
    with pytest.raises(ConfigError, match=r"^eval.novelty.reward_model=.* has 3 labels; a reward model has one"):
        RewardModel(str(three), device=CPU, dtype=torch.float32)
    edit_config(deberta, id2label={"0": "score"})
    with pytest.raises(ConfigError, match="its tokenizer has no chat template"):
        RewardModel(str(deberta), device=CPU, dtype=torch.float32)
