import logging
import threading

import pytest
import torch
from transformers import BertConfig

from dqo.errors import ConfigError, StageError
from dqo.models.precision import Dtype
from dqo.reward.reward_model import Activation, RewardModel
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.helpers.classifiers import pair_tokenizer, save_adapter, save_classifier, save_last_word_classifier
from tests.reward.tasks import FixedPrompts, prompt

PROMPTS = (prompt(3, "a b"), prompt(4, ({"role": "user", "content": "c"}, {"role": "assistant", "content": "so"})))
TASK = FixedPrompts(prompts=PROMPTS)
ROLLOUTS = make_rollouts(["yes", "no", "no", "a yes"], 2, prompts=PROMPTS, finished=[True, True, False, True])
TABLE = {"yes": [2.0], "no": [-1.0], "so": [0.5]}


def model(folder, task=TASK, **changes) -> RewardModel:
    settings = {
        "revision": None, "labels": None, "activation": Activation.NONE, "max_length": None, "batch_tokens": 16_384,
        "dtype": Dtype.FLOAT32, "model_device": "policy", "correct_above": None, "mask_truncated_completions": False,
    } | changes  # fmt: skip
    return RewardModel(task, torch.device("cpu"), path=str(folder), **settings)


def assert_near(given, expected) -> None:
    torch.testing.assert_close(torch.as_tensor(given), torch.as_tensor(expected), atol=1e-3, rtol=1e-3)


@pytest.fixture
def yes_no(tmp_path):
    return save_last_word_classifier(tmp_path / "rm", TABLE, ["score"])


def test_rewards_are_logits_of_the_conversation(yes_no):
    reward = model(yes_no, correct_above=0.0)
    assert isinstance(reward, Reward)
    rewards = reward.score(ROLLOUTS)
    assert_near(rewards.total_PK, [[2.0, -1.0], [0.0, 2.0]])  # "sono": the prefill is a part of the answer
    assert torch.equal(rewards.parts["reward_model"], rewards.total_PK)
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False], [False, True]]
    assert model(yes_no).score(ROLLOUTS).correct_PK is None


def test_the_model_sees_all_turns_and_the_prefill(yes_no):
    seen = []
    reward = model(yes_no)
    reward._classifier.tokenizer.chat_template = (
        "{% for turn in messages %}{{ turn.role }} {{ turn.content }} {% endfor %}"
    )
    forward = reward._classifier.logits
    reward._classifier.logits = lambda inputs: seen.extend(inputs) or forward(inputs)
    reward.score(ROLLOUTS)
    texts = {reward._classifier.tokenizer.decode(ids["input_ids"]) for ids in seen}
    assert texts == {
        "user a b assistant yes", "user a b assistant no", "user c assistant [UNK]", "user c assistant [UNK] yes",
    }  # fmt: skip  # "sono" and "soa" are words of their own: the prefill is not parted from what follows


def test_equal_texts_are_read_once_and_get_equal_rewards_in_any_order(tmp_path):
    folder = tmp_path / "adapter"
    save_adapter(folder, tmp_path / "base")
    reward = model(folder, batch_tokens=16)
    texts = ["yes", "no so", "yes", "a b c d", "no so", "yes"]
    first = reward.score(make_rollouts(texts, 6, prompts=PROMPTS[:1])).total_PK[0]
    again = reward.score(make_rollouts(texts[::-1], 6, prompts=PROMPTS[:1])).total_PK[0]
    assert torch.equal(first, again.flip(0)) and first[0] == first[2] == first[5] and first[1] == first[4]
    assert len(first.unique()) == 3


def test_without_a_chat_template_prompt_and_completion_are_a_pair(tmp_path):
    config = BertConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
        initializer_range=0.5, max_position_embeddings=10,
    )  # fmt: skip
    reward = model(save_classifier(tmp_path, config))
    expected = reward._classifier.pair_logits([("a b", "yes"), ("a b", "no")])[:, 0]
    rollouts = make_rollouts(["yes", "no"], 2, prompts=PROMPTS[:1])
    torch.testing.assert_close(reward.score(rollouts).total_PK[0], expected)


def test_a_long_conversation_loses_the_start_of_its_prompt_and_is_counted(yes_no, caplog):
    prompts = (prompt(0, "a b c d a b c d"), prompt(1, "a"))
    reward = model(yes_no, max_length=4, task=FixedPrompts(prompts=prompts))
    with caplog.at_level(logging.WARNING):
        rewards = reward.score(make_rollouts(["so yes", "no", "yes", "no"], 2, prompts=prompts))
    assert_near(rewards.total_PK, [[2.0, -1.0], [2.0, -1.0]])
    assert reward.counters() == {"reward_model/cut": 2}
    assert "reward.path: 2 of 4 inputs are longer than 4 tokens and are cut" in caplog.text


def test_masked_completions_are_not_read(yes_no):
    rewards = model(yes_no, mask_truncated_completions=True).score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True], [False, True]]
    assert rewards.total_PK[1, 0] == 0 and rewards.parts["reward_model"].isnan().sum() == 1


TWO = {"yes": [2.0, 1.0], "no": [0.0, 3.0]}


@pytest.mark.parametrize(
    ("labels", "parts", "total"),
    [
        (1, {"reward_model": [1.0, 3.0]}, [1.0, 3.0]),
        ("brevity", {"reward_model": [1.0, 3.0]}, [1.0, 3.0]),
        ({"help": 1.0, "1": -0.5}, {"help": [2.0, 0.0], "brevity": [1.0, 3.0]}, [1.5, -1.5]),
        ({0: 1.0}, {"help": [2.0, 0.0]}, [2.0, 0.0]),
    ],
)
def test_labels_choose_parts_and_weights(tmp_path, labels, parts, total):
    folder = save_last_word_classifier(tmp_path / "two", TWO, ["help", "brevity"])
    rewards = model(folder, labels=labels).score(make_rollouts(["yes", "no"], 2, prompts=PROMPTS[:1]))
    assert list(rewards.parts) == list(parts)
    assert_near(torch.stack([part_PK[0] for part_PK in rewards.parts.values()]), list(parts.values()))
    assert_near(rewards.total_PK[0], total)


def test_activations(tmp_path):
    folder = save_last_word_classifier(tmp_path / "two", TWO, ["help", "brevity"])
    rollouts = make_rollouts(["yes", "no"], 2, prompts=PROMPTS[:1])
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    for activation, expected in ((Activation.SOFTMAX, logits.softmax(1)), (Activation.SIGMOID, logits.sigmoid())):
        total_PK = model(folder, labels=0, activation=activation).score(rollouts).total_PK
        assert_near(total_PK[0], expected[:, 0])


def test_judge_threads_do_not_disturb_each_other(tmp_path):
    folder = tmp_path / "adapter"
    save_adapter(folder, tmp_path / "base")
    reward, found = model(folder, max_length=8), {}
    records = [
        make_rollouts([f"{a} {b}", "a b c d " * 9], 2, prompts=PROMPTS[:1]) for a in "abcd" for b in ("yes", "no")
    ]
    alone = [reward.score(rollouts).total_PK for rollouts in records]

    def score(n: int) -> None:
        found[n] = reward.score(records[n]).total_PK

    threads = [threading.Thread(target=score, args=(n,)) for n in range(len(records))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[n], alone[n]) for n in range(len(records)))


def test_a_resumed_run_notices_another_model(tmp_path):
    same = save_classifier(tmp_path / "a", CONFIG)
    state = model(same).state_dict()
    model(same).load_state_dict(state)
    other = save_classifier(tmp_path / "b", CONFIG)
    reward = model(other)
    with torch.no_grad():
        reward._classifier.model.classifier.bias.fill_(1.0)
    reward._probe = reward._classifier.logits([reward._input(PROMPTS[0], "yes")[0]])[0].tolist()
    with pytest.raises(
        ConfigError, match=r"^resume: reward.path is not the model of the checkpoint .*; type the reward"
    ):
        reward.load_state_dict(state)


CONFIG = BertConfig(
    vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
    initializer_range=0.5,
)  # fmt: skip


def test_memory_and_pause(yes_no):
    reward = model(yes_no)
    assert list(reward.memory()) == ["weights"] and reward.memory()["weights"] > 1000
    before = reward.score(ROLLOUTS).total_PK
    reward.pause()
    assert torch.equal(reward.score(ROLLOUTS).total_PK, before)
    assert list(model(yes_no, model_device="cpu").memory()) == ["weights on cpu"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pause_frees_the_gpu(tmp_path):
    folder = tmp_path / "adapter"
    save_adapter(folder, tmp_path / "base")
    settings = {"revision": None, "labels": None, "activation": Activation.NONE, "max_length": None,
                "batch_tokens": 64, "dtype": Dtype.BFLOAT16, "model_device": "policy", "correct_above": None,
                "mask_truncated_completions": False}  # fmt: skip
    reward = RewardModel(TASK, torch.device("cuda"), path=str(folder), **settings)
    first, held = reward.score(ROLLOUTS).total_PK, torch.cuda.memory_allocated()
    reward.pause()
    assert torch.cuda.memory_allocated() < held
    assert torch.equal(reward.score(ROLLOUTS).total_PK, first)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": 2}, r"reward.labels=2: the model has no such label; there are 0 \(help\), 1 \(brevity\)"),
        ({"labels": "helpful"}, "reward.labels=helpful: the model has no such label"),
        ({"labels": {}}, "reward.labels={}: different labels of help, brevity are needed"),
        ({"labels": {0: 1.0, "help": 1.0}}, "different labels"),
        ({"labels": None}, r"reward.labels=null: the model has 2 labels \(help, brevity\); type reward.labels=0"),
        ({"labels": 0, "max_length": 10**6}, "reward.max_length=1000000: the model reads at most 2048 tokens"),
        (
            {"labels": 0, "model_device": "cuda:7"},
            "model_device=cuda:7: there are policy, cpu.*; type reward.model_device=policy",
        ),
    ],
)
def test_mistakes_are_found_at_construction(tmp_path, changes, message):
    folder = save_last_word_classifier(tmp_path / "two", TWO, ["help", "brevity"])
    with pytest.raises(ConfigError, match=message) as refused:
        model(folder, **changes)
    assert "\n" not in str(refused.value)


def test_a_template_that_refuses_the_prompts(yes_no):
    tokenizer = pair_tokenizer(pad="[SEP]")
    tokenizer.chat_template = (
        "{% if messages[0].content == 'a b' %}{{ raise_exception('no system turns') }}{% endif %}yes"
    )
    tokenizer.save_pretrained(yes_no)
    with pytest.raises(ConfigError, match=r"its chat template refuses the task's first prompt \(no system turns\)"):
        model(yes_no)
    reward = model(yes_no, task=FixedPrompts(prompts=PROMPTS[1:]))
    with pytest.raises(StageError, match=r"prompts 3\] the reward model's chat template refuses the prompt") as caught:
        reward.score(ROLLOUTS)
    assert caught.value.positions == (3,)


def test_rewards_that_are_not_finite_end_the_run(yes_no):
    reward = model(yes_no)
    with torch.no_grad():
        reward._classifier.model.score.weight.fill_(torch.nan)
    with pytest.raises(StageError, match=r"\[reward.path\] .*returned logits that are not finite"):
        reward.score(ROLLOUTS)
