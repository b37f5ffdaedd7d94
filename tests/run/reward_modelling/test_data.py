import json

import pytest

from dqo.config.schema import RewardModelling
from dqo.errors import ConfigError
from dqo.run.reward_modelling.data import Examples, Pair, Scored, read_examples
from tests.helpers.classifiers import TEMPLATE, pair_tokenizer
from tests.helpers.reward_modelling import settings

PAIR = {"prompt": "a b", "chosen": "yes so", "rejected": "no"}


def read(tmp_path, *rows, limit=64, template=None, **changes) -> Examples:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    tokenizer = pair_tokenizer()
    tokenizer.chat_template = template
    return read_examples(str(file), "rm.path", RewardModelling(**settings(**changes)), tokenizer, limit=limit)


def words(encoding) -> str:
    return pair_tokenizer().decode(encoding["input_ids"])


def test_a_pair_of_texts_for_a_model_without_a_chat_template(tmp_path):
    examples = read(tmp_path, PAIR)
    assert examples.are_pairs
    (pair,) = examples.rows
    assert isinstance(pair, Pair)
    assert (words(pair.chosen), words(pair.rejected)) == ("[CLS] a b [SEP] yes so [SEP]", "[CLS] a b [SEP] no [SEP]")
    assert pair.chosen["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {**PAIR, "prompt": [{"role": "user", "content": "a b"}]},
        {
            "chosen": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "yes so"}],
            "rejected": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "no"}],
        },
        {
            "prompt": [{"role": "user", "content": "a b"}],
            "chosen": [{"role": "assistant", "content": "yes so"}],
            "rejected": [{"role": "assistant", "content": "no"}],
        },
    ],
)
def test_texts_and_messages_of_all_forms_are_one_conversation(tmp_path, row):
    (pair,) = read(tmp_path, row, template=TEMPLATE).rows
    assert isinstance(pair, Pair)
    assert words(pair.chosen).split() == ["user", "a", "b", "assistant", "yes", "so"]
    assert words(pair.rejected).split() == ["user", "a", "b", "assistant", "no"]


def test_scored_texts_with_columns_of_other_names(tmp_path):
    rows = [{"q": "a", "text": "yes", "reward": "0.5"}, {"q": "a", "text": "no", "reward": -1}]
    examples = read(tmp_path, *rows, prompt_column="q", completion_column="text", score_column="reward")
    assert not examples.are_pairs
    assert [row.score for row in examples.rows if isinstance(row, Scored)] == [0.5, -1.0]


def test_equal_answers_are_left_out_and_long_prompts_cut(tmp_path, caplog):
    long = {**PAIR, "prompt": "c " * 50 + "d"}
    examples = read(tmp_path, PAIR, {**PAIR, "rejected": "yes so"}, long, limit=8)
    assert len(examples.rows) == 2
    assert "1 of 3 pairs have equal answers and are left out" in caplog.text
    assert "2 answers have more than 8 tokens with their prompt, which is cut" in caplog.text
    last = examples.rows[1]
    assert isinstance(last, Pair) and words(last.chosen) == "[CLS] c c d [SEP] yes so [SEP]"
    assert last.lengths == (2, 1)  # of the answers alone: cut conversations are all as long


def test_of_pairs_and_scores_the_pairs_are_learned(tmp_path, caplog):
    assert read(tmp_path, PAIR | {"completion": "so", "score": 1.0}).are_pairs
    assert "has pairs (chosen, rejected) and scores (score); the pairs are learned" in caplog.text


def test_answers_to_one_prompt_are_on_one_side_and_the_split_is_the_same_for_ever(tmp_path):
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in ("a", "b", "c", "d") for _ in range(2)]
    learned, held_out = read(tmp_path, *rows).split(0.5)
    assert [row.prompt for row in learned.rows] == ["a", "a"]
    assert [row.prompt for row in held_out.rows] == ["b", "b", "c", "c", "d", "d"]
    with pytest.raises(ConfigError, match=r"rm.held_out=1e-09: of 4 prompts none is held out; type rm.held_out=0.5"):
        read(tmp_path, *rows).split(1e-9)
    with pytest.raises(ConfigError, match=r"of 1 prompts none is held out; type rm.eval_path=FILE"):
        read(tmp_path, rows[0]).split(0.1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "answer": "b"}, r"line 1: has neither chosen nor score, but prompt, answer; type rm.chosen"),
        (
            {"chosen": "yes", "rejected": "no"},
            r"line 1: has no prompt, which chosen answers; type rm.prompt_column=NAME",
        ),
        ({"prompt": "a", "chosen": "yes"}, r"line 1: has no rejected; there are prompt, chosen"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, r"chosen must be text, or messages .*; it is 3"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, r"prompt must be text, or messages .*; it is 3"),
        ({"prompt": "a", "chosen": [], "rejected": "b"}, r"chosen must be text, or messages .*; it is \[\]"),
        (
            {"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"},
            r"chosen must be one message of the assistant; it ends in one of user, 1 in all",
        ),
        (
            {"chosen": [{"role": "assistant", "content": "b"}], "rejected": "c"},
            r"chosen must be a prompt and one of the assistant; it ends in one of assistant, 1 in all",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
                "rejected": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
            },
            r"line 1: chosen and rejected answer different prompts",
        ),
        ({"prompt": "a", "completion": "b", "score": "good"}, r"line 1: score is good; a number is needed"),
        ({"prompt": "a", "completion": "b", "score": True}, r"line 1: score is True; a number is needed"),
        ({"prompt": "a", "completion": "b", "score": "inf"}, r"line 1: score is inf; a number is needed"),
        ({"prompt": "a", "score": 1}, r"line 1: has no completion; there are prompt, score"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, r"the answers of every pair are equal; type rm.path=FILE"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_row(tmp_path, row, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, row)


def test_a_template_that_refuses_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"line 1: the model's chat template refuses it \(no way\)"):
        read(tmp_path, PAIR, template="{{ raise_exception('no way') }}")
