"""What every task shares: the prompt stream, the rendering, and the length check."""

import logging
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dqo.errors import ConfigError
from dqo.stages import Task, Verdict
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering
from tests.factories import word_tokenizer

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = ["<system>", "<user>", "<assistant>", "a", "b", "c"]


class Plain(RowTask):
    def check(self, prompt, text, finished):
        return Verdict(reward=0.0, correct=False)


def rows(count: int, name: str = "train") -> list[Row]:
    return [Row(content=f"{name} {n}", source=f"{name}.jsonl, line {n}", columns={"n": n}) for n in range(1, count + 1)]


def task(
    training=None, *, held_out=None, tokenizer=None, context=64, seed=0, longest=8, chat=False, skip_long=None
) -> Plain:
    return Plain(
        tokenizer or word_tokenizer(WORDS),
        context,
        Rendering(seed=seed, max_completion_length=longest, chat_template=chat),
        training=rows(7) if training is None else training,
        held_out=rows(2, "eval") if held_out is None else held_out,
        skip_long=skip_long,
    )


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer(WORDS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """The worst case of the length bound: one token per byte, and one for the space that it adds in front."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def prompt_text(subject: Plain) -> str:
    return str(word_tokenizer(WORDS).decode(list(subject.draw(0, 1)[0][0].tokens)))


def test_is_a_task():
    assert isinstance(task(), Task)


def test_draw_is_pure_in_seed_and_cursor():
    whole, end = task().draw(0, 30)
    assert end == 30
    assert [prompt.position for prompt in whole] == list(range(30))
    again = task()
    assert again.draw(17, 5) == (whole[17:22], 22)
    assert again.draw(3, 9) == (whole[3:12], 12)
    assert again.draw(4, 0) == ([], 4)
    assert [p.content for p in task(seed=1).draw(0, 30)[0]] != [p.content for p in whole]


def test_epochs_are_permutations_and_differ():
    contents = [prompt.content for prompt in task().draw(0, 70)[0]]
    epochs = [contents[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == sorted(row.content for row in rows(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_held_out_positions_and_order():
    assert [(p.position, p.content) for p in task().held_out()] == [(0, "eval 1"), (1, "eval 2")]


def test_columns_reach_the_prompt():
    assert all(p.columns == {"n": int(str(p.content).split()[1])} for p in task().draw(0, 7)[0])


def test_held_out_prompt_that_is_trained_on():
    with pytest.raises(ConfigError, match=r"eval.jsonl, line 1: .* trained on too \(train.jsonl, line 3\)"):
        task(held_out=[Row(content="train 3", source="eval.jsonl, line 1")])


def test_text_is_one_user_message():
    tokenizer = chat_tokenizer()
    one = [Row(content="a b", source="x")]
    assert prompt_text(task(one, tokenizer=tokenizer, chat=True)) == "<user> a b <assistant>"
    assert prompt_text(task(one, tokenizer=tokenizer, chat=False)) == "a b"
    assert prompt_text(task(one, chat=True)) == "a b"  # this model has no template


def test_messages_keep_their_roles():
    tokenizer = chat_tokenizer()
    messages = ({"role": "system", "content": "c"}, {"role": "user", "content": "a"})
    subject = task([Row(content=messages, source="x")], tokenizer=tokenizer, chat=True)
    assert prompt_text(subject) == "<system> c <user> a <assistant>"
    assert subject.draw(0, 1)[0][0].content == messages


@pytest.mark.parametrize(
    ("tokenizer", "chat", "fix"),
    [(word_tokenizer(WORDS), True, "model.path="), (chat_tokenizer(), False, "task.chat_template=true")],
)
def test_messages_without_a_template(tokenizer, chat, fix):
    messages = Row(content=({"role": "user", "content": "a"},), source="my.jsonl, line 4")
    with pytest.raises(ConfigError, match=f"my.jsonl, line 4: messages need a chat template; type {fix}"):
        task([*rows(3), messages], tokenizer=tokenizer, chat=chat)


def test_a_failing_chat_template_is_reported_at_construction():
    messages = Row(
        content=({"role": "user", "content": "a"}, {"role": "tool", "content": "b"}), source="my.jsonl, line 9"
    )
    with pytest.raises(ConfigError, match=r"my.jsonl, line 9: .*no tools here.*model.path=.*task.chat_template=false"):
        task([*rows(3), messages], tokenizer=chat_tokenizer(), chat=True)


def test_end_token_of_the_tokenizer_is_not_part_of_a_prompt():
    tokenizer = word_tokenizer(WORDS)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    assert tokenizer("a")["input_ids"][-1] == 1
    assert all(1 not in prompt.tokens for prompt in task(tokenizer=tokenizer).draw(0, 7)[0])


def test_empty_prompt():
    with pytest.raises(ConfigError, match=r"my.jsonl, line 2: the prompt is empty"):
        task([Row(content=" ", source="my.jsonl, line 2")])


def test_longest_prompt_that_fits_and_first_that_does_not():
    fits = Row(content="a " * 10, source="my.jsonl, line 1")
    assert len(task([fits], context=18, longest=8).draw(0, 1)[0][0].tokens) == 10
    message = r"my.jsonl, line 1: the prompt has 10 tokens, with max_completion_length=8 more than the model's context"
    with pytest.raises(ConfigError, match=message + " of 17; type max_completion_length=7, or model="):
        task([fits], context=17, longest=8)
    with pytest.raises(ConfigError, match=r"of 10; type task.skip_long=true to leave such prompts out, or model="):
        task([fits], context=10, longest=8, skip_long=False)


def test_long_prompts_are_left_out_and_counted(caplog):
    long = [Row(content="a " * n, source=f"line {n}") for n in (9, 11, 12)]
    with caplog.at_level(logging.WARNING):
        kept = task(long, context=18, longest=8, skip_long=True)
    assert "2 of 3 prompts are too long and left out" in caplog.text
    assert {prompt.content for prompt in kept.draw(0, 4)[0]} == {"a " * 9}
    with pytest.raises(ConfigError, match="all prompts are too long"):
        task(long[1:], context=18, longest=8, skip_long=True)


@pytest.mark.parametrize("chat", [False, True])
def test_length_bound_misses_no_long_prompt(chat):
    """Every row that is not tokenised must fit: one token per byte, characters of one to four bytes."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    chooser = random.Random(0)
    for trial in range(200):
        text = "".join(chooser.choice("aé漢🎈 ") for _ in range(chooser.randrange(1, 12))) + "a"
        row = Row(content=text, source="x")
        length = len(task([row], tokenizer=tokenizer, context=10_000, chat=chat).draw(0, 1)[0][0].tokens)
        limit = length + 8 - trial % 2
        if trial % 2:
            with pytest.raises(ConfigError, match=f"the prompt has {length} tokens"):
                task([row], held_out=[Row(content="a", source="y")], tokenizer=tokenizer, context=limit, chat=chat)
        else:
            task([row], held_out=[Row(content="b", source="y")], tokenizer=tokenizer, context=max(limit, 80), chat=chat)


def test_only_rows_that_can_be_too_long_are_tokenised(monkeypatch):
    calls = []
    original = Plain._tokens
    monkeypatch.setattr(Plain, "_tokens", lambda self, row: calls.append(row.source) or original(self, row))
    task([*rows(1000), Row(content="a " * 40, source="long")], context=64)
    assert "long" in calls
    assert len(calls) < 10


def test_demonstrations_are_pure_and_from_training_rows():
    answered = [Row(content=f"a {n}", source="x", demonstrations=(f"yes {n}", f"no {n}")) for n in range(5)]
    subject = task([*answered, Row(content="no answer", source="x")])
    pairs = subject.demonstrations(40, 3)
    assert pairs == subject.demonstrations(40, 3)
    assert pairs != subject.demonstrations(40, 4)
    assert [prompt.position for prompt, _ in pairs] == list(range(40))
    assert {text for _, text in pairs} == {f"{word} {n}" for n in range(5) for word in ("yes", "no")}
    assert all(str(prompt.content)[-1] == text[-1] for prompt, text in pairs)


def test_task_without_demonstrations_says_what_to_type():
    with pytest.raises(ConfigError, match=r"task.completion_column=NAME"):
        task().demonstrations(3, 0)


def test_default_key():
    subject = task()
    prompt = subject.held_out()[0]
    assert subject.key(prompt, "  The DOG\n runs. ") == subject.key(prompt, "the dog runs") == "the dog runs"
    assert subject.key(prompt, "the dog ran") != "the dog runs"
