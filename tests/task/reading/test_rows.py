"""What every task shares: the prompt stream, the rendering, and the length check."""

import logging
import random
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dqo.errors import ConfigError
from dqo.row_checks import Rendered
from dqo.stages import Task, Verdict
from dqo.task.reading.rows import Row, RowTask
from dqo.task.reading.settings import Rendering
from tests.factories import word_tokenizer
from tests.task.reading import chat_templates

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
        Rendering(seed=seed, max_completion_length=longest, chat_template=chat, chat_template_kwargs=None, date=None),
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


def test_a_prompt_with_a_token_that_the_model_has_no_row_for_is_refused():
    """Before any work, be it in a row or in the chat template; other prompts are accepted."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    without = {"<image>": 63, "<video>": 64}
    given = [Row(content="w1 w2", source="my.jsonl, line 1"), Row(content="w3 <image> w4", source="my.jsonl, line 2")]
    task(given[:1], tokenizer=tokenizer).refuse_tokens(without)
    with pytest.raises(ConfigError, match=r"^my.jsonl, line 2: the prompt has the token <image>, .*model.path=FOLDER"):
        task(given, tokenizer=tokenizer).refuse_tokens(without)
    tokenizer.chat_template = "<video> {{ messages[0].content }}"
    with pytest.raises(ConfigError, match=r"^my.jsonl, line 1: the prompt has the token <video>"):
        task(given[:1], tokenizer=tokenizer, chat=True).refuse_tokens(without)


def test_a_failing_chat_template_is_reported_at_construction():
    messages = Row(
        content=({"role": "user", "content": "a"}, {"role": "tool", "content": "b"}), source="my.jsonl, line 9"
    )
    with pytest.raises(
        ConfigError, match=r"line 9: .*\(no tools here\); type model.chat_template=FILE of another template, or change"
    ):
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


def test_a_prompt_too_long_by_its_tools_is_refused_or_left_out(caplog):
    tokenizer = chat_templates.tokenizer(chat_templates.TOOLS)
    short = Row(content=({"role": "user", "content": "hi"},), source="x")
    long = replace(short, source="my.jsonl, line 2", tools=({"name": "f", "description": "word " * 100},))
    keys = {"tokenizer": tokenizer, "chat": True, "context": 400, "held_out": [Row(content="eval", source="y")]}
    with pytest.raises(ConfigError, match=r"my.jsonl, line 2: the prompt has 5\d\d tokens"):
        task([short, long], **keys)
    assert task([short, long], skip_long=True, **keys).draw(0, 1)[0][0].columns == {}
    assert "1 of 2 prompts are too long and left out" in caplog.text


def test_prompts_that_differ_in_their_tools_alone_are_two_prompts():
    tokenizer = chat_templates.tokenizer(chat_templates.TOOLS)
    one = Row(content="hi", source="a", tools=({"name": "f"},))
    other = replace(one, source="b", tools=({"name": "g"},))
    subject = task([one], held_out=[other], tokenizer=tokenizer, chat=True, context=400)
    assert subject.held_out()[0].tokens != subject.draw(0, 1)[0][0].tokens
    with pytest.raises(ConfigError, match="trained on too"):
        task([one], held_out=[replace(one, source="b")], tokenizer=tokenizer, chat=True, context=400)


def test_words_of_the_assistant_at_the_end_are_said_to_be_gone_on_with(caplog):
    prefill = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    with caplog.at_level(logging.INFO):
        subject = task([Row(content=prefill, source="x")], tokenizer=chat_tokenizer(), chat=True)
    assert subject.draw(0, 1)[0][0].prefill == "b"
    assert prompt_text(subject) == "<user> a <assistant> b"
    assert "1 of 3 prompts end with words of the assistant: the model goes on with them" in caplog.text


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


def test_demonstrations_end_as_the_chat_template_ends_a_turn():
    answered = [Row(content="a", source="x", demonstrations=("b",))]
    tokenizer = chat_templates.tokenizer()
    subject = task(answered, tokenizer=tokenizer, chat=True, context=200)
    assert [text for _, text in subject.demonstrations(2, 0)] == ["b<end>", "b<end>"]
    assert [text for _, text in task(answered).demonstrations(2, 0)] == ["b", "b"]


def test_conversations_without_another_answer_show_their_last_message():
    messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    subject = task([Row(content=messages, source="x")], tokenizer=chat_tokenizer(), chat=True)
    ((prompt, text),) = subject.demonstrations(1, 0)
    assert (prompt.content, text) == (messages[:1], "b")


def test_an_example_answer_too_long_for_the_model(caplog):
    rows = [Row(content="a", source=f"line {n}", demonstrations=("b " * n,)) for n in (1, 60)]
    assert len(task(rows).demonstrations(1, 0)) == 1
    with pytest.raises(
        ConfigError, match=r"line 60: the prompt and its example answer have 62 tokens, .* context of 32"
    ):
        task(rows, context=32).demonstrations(1, 0)
    kept = task(rows, context=32, skip_long=True).demonstrations(9, 0)
    assert {text for _, text in kept} == {"b "}
    assert "1 of 2 prompts with an example answer are too long and left out" in caplog.text
    with pytest.raises(ConfigError, match="all prompts with an example answer are too long"):
        task(rows[1:], context=32, skip_long=True).demonstrations(1, 0)


def test_task_without_demonstrations_says_what_to_type():
    with pytest.raises(ConfigError, match=r"task.completion_column=NAME"):
        task().demonstrations(3, 0)


def test_the_fingerprint_is_of_the_content_and_not_of_its_place():
    moved = [replace(row, source=f"other.csv, line {n}") for n, row in enumerate(rows(7))]
    same = task().fingerprints()
    assert same["training rows"].startswith("7 rows, ") and same["held-out rows"].startswith("2 rows, ")
    assert task(moved).fingerprints() == task(moved, seed=3).fingerprints() == same
    first, *others = rows(7)
    for changed in (
        [first, *others][::-1],
        others,
        [replace(first, content="another"), *others],
        [replace(first, columns={"n": 2}), *others],
        [replace(first, columns={"n": b"1"}), *others],
        [replace(first, demonstrations=("yes",)), *others],
    ):
        other = task(changed).fingerprints()
        assert other["training rows"] != same["training rows"]
        assert other["held-out rows"] == same["held-out rows"]
    assert task(held_out=rows(3, "eval")).fingerprints()["held-out rows"] != same["held-out rows"]
    assert task(tokenizer=chat_tokenizer(), chat=True).fingerprints()["chat template"] != same["chat template"]
    assert task(tokenizer=chat_tokenizer(), chat=False).fingerprints() == same  # the template is not used


def test_default_key():
    subject = task()
    prompt = subject.held_out()[0]
    assert subject.key(prompt, "  The DOG\n runs. ") == subject.key(prompt, "the dog runs") == "the dog runs"
    assert subject.key(prompt, "the dog ran") != "the dog runs"


def test_rows_that_the_reward_cannot_judge_are_left_out():
    subject = task()
    assert [source for source, _ in subject.rows()][6:] == [
        "train.jsonl, line 7",
        "eval.jsonl, line 1",
        "eval.jsonl, line 2",
    ]
    subject.leave_out([0, 7])
    assert [source for source, _ in subject.rows()] == [
        *(f"train.jsonl, line {n}" for n in range(2, 8)),
        "eval.jsonl, line 2",
    ]
    assert {prompt.columns["n"] for prompt in subject.draw(0, 12)[0]} == set(range(2, 8))
    assert [prompt.content for prompt in subject.held_out()] == ["eval 2"]
    with pytest.raises(ConfigError, match="none of the held-out rows can be judged"):
        subject.leave_out([6])


def test_a_typed_text_is_rendered_like_a_row():
    subject = task(tokenizer=chat_tokenizer(), chat=True)
    typed = subject.prompt_of("a b", position=5, source="prompt=")
    row = task([Row(content="a b", source="row")], tokenizer=chat_tokenizer(), chat=True).draw(0, 1)[0][0]
    assert (typed.tokens, typed.content, typed.columns, typed.position) == (row.tokens, "a b", {}, 5)


def test_a_typed_text_that_is_a_row_has_its_columns():
    subject = task()
    assert subject.prompt_of("eval 2", position=0, source="prompt=").columns == {"n": 2}
    assert subject.prompt_of("train 3", position=0, source="prompt=").columns == {"n": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "line 4 of stdin: the prompt is empty; type a text"),
        ("a " * 57, "line 4 of stdin: the prompt has 57 tokens, with max_completion_length=8 more than the model's"),
    ],
)
def test_a_typed_text_that_cannot_be_asked_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        task().prompt_of(text, position=0, source="line 4 of stdin")


def test_rendering_says_what_changes_the_tokens_of_a_prompt():
    plain = task(chat=True).rendering()  # this model has no template
    assert plain == {"chat": False, "template": None, "system": None, "chat_template_kwargs": {}}
    assert isinstance(task(), Rendered)
    chat = task(chat=True, tokenizer=chat_tokenizer()).rendering()
    other = chat_tokenizer()
    other.chat_template = TEMPLATE.replace("<assistant>", "<assistant> a")
    assert chat["chat"] and task(chat=True, tokenizer=other).rendering()["template"] != chat["template"] is not None
    assert task(chat=False, tokenizer=chat_tokenizer()).rendering() == plain


def test_rendering_names_the_system_turn_that_all_rows_have():
    def row(name: str, *system: str) -> Row:
        turns = [{"role": "system", "content": text} for text in system]
        return Row(content=(*turns, {"role": "user", "content": name}), source=name)

    same = task([row("a", "c")], held_out=[row("b", "c")], chat=True, tokenizer=chat_tokenizer())
    assert same.rendering()["system"] == "c"
    other = task([row("a", "c")], held_out=[row("b")], chat=True, tokenizer=chat_tokenizer())
    assert other.rendering()["system"] == "differs from row to row"
