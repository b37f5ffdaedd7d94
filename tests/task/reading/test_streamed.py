"""Rows that stay on the disk: the same rows and the same refusals as in memory."""

import gzip
import json
import logging
from pathlib import Path

import pyarrow
import pytest

from dqo.errors import ConfigError
from dqo.task.reading import sources
from dqo.task.reading.rows import RowTask
from dqo.task.reading.streamed import INDEX
from tests.helpers.on_ranks import on_ranks
from tests.task import own_files
from tests.task.own_files import LINES, task, write


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def streamed(path, **keys):
    return task(path, **{"streaming": True, **keys})


def prompts(subject: RowTask, cursor: int = 0, count: int | None = None) -> list:
    drawn = subject.draw(cursor, len(subject._training) if count is None else count)[0]
    return [(prompt.position, prompt.content, prompt.columns, prompt.tokens) for prompt in drawn]


def contents(subject: RowTask) -> list:
    return sorted(str((content, columns)) for _, content, columns, _ in prompts(subject))


FORMS = {
    "jsonl": lambda folder: write(folder, LINES),
    "blank lines, CRLF, a byte order mark and no last line end": lambda folder: own_files.raw(
        folder, "\ufeff" + "\r\n\r\n \r\n".join(json.dumps(line) for line in LINES)
    ),
    "gzip": lambda folder: own_files.raw(folder, gzip.compress(Path(write(folder, LINES)).read_bytes()), "a.jsonl.gz"),
    "zstandard": lambda folder: own_files.raw(
        folder, pyarrow.compress(Path(write(folder, LINES)).read_bytes(), codec="zstd", asbytes=True), "a.jsonl.zst"
    ),
    "csv": lambda folder: own_files.raw(
        folder, "prompt,answer,topic\n" + "".join(f'"question\n{n}",{n},"x, y"\n' for n in range(10)), "my.csv"
    ),
    "parquet": lambda folder: own_files.parquet(folder, LINES),
    "saved": lambda folder: own_files.saved(folder, LINES),
    "other scripts": lambda folder: write(folder, [{"prompt": f"Wörter, 漢字 🎈 {n}", "n": n} for n in range(10)]),
    "fields that some lines lack": lambda folder: write(folder, [*LINES, {"prompt": "question 10", "extra": [1]}]),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_as_in_memory(tmp_path, form):
    path, other = FORMS[form](tmp_path), write(tmp_path, [{"prompt": "other", "answer": 0}], "eval.jsonl")
    there, here = streamed(path, eval_path=other), task(path, eval_path=other)
    assert len(there._training) == len(here._training)
    assert contents(there) == contents(here)
    assert [prompt.content for prompt in there.held_out()] == ["other"]


@pytest.mark.parametrize("form", FORMS)
def test_messages_name_the_line_as_in_memory(tmp_path, form):
    path, other = FORMS[form](tmp_path), write(tmp_path, [{"prompt": "other", "answer": 0}], "eval.jsonl")
    there, here = (task(path, eval_path=other, streaming=streaming)._training for streaming in (True, False))
    assert [row.source for row in there] == [row.source for row in here]


def test_the_order_is_pure_in_seed_and_cursor_and_each_epoch_has_all_rows(tmp_path):
    path = write(tmp_path, [{"prompt": f"question {n}"} for n in range(100)])
    subject = streamed(path, held_out=10)
    whole = prompts(subject, 0, 300)
    assert prompts(streamed(path, held_out=10), 137, 60) == whole[137:197]
    epochs = [[content for _, content, _, _ in whole[start : start + 90]] for start in (0, 90, 180)]
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert len(set(epochs[0])) == 90
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert prompts(streamed(path, held_out=10, seed=1), 0, 90) != whole[:90]


def test_ranks_that_index_the_files_at_the_same_time_draw_the_same_prompts(tmp_path, cache):
    write(tmp_path, LINES, "data/a.jsonl")
    own_files.raw(tmp_path, gzip.compress(Path(write(tmp_path, LINES[:5])).read_bytes()), "data/b.jsonl.gz")

    def on_one(rank: int) -> tuple:
        subject = streamed(str(tmp_path / "data"))
        return prompts(subject, 3, 40), [prompt.content for prompt in subject.held_out()], subject.fingerprints()

    first, second = on_ranks(2, tmp_path, on_one)
    assert first == second == on_one(0)
    assert len([*cache.glob(f"**/{INDEX}")]) == 1


def test_held_out_prompts_are_the_same_for_every_seed_and_none_of_their_lines_is_trained_on(tmp_path):
    path = write(tmp_path, [*LINES, *LINES[:5]])
    first, second = streamed(path, held_out=4), streamed(path, held_out=4, seed=7)
    held_out = {prompt.content for prompt in first.held_out()}
    assert len(held_out) == 4
    assert held_out == {prompt.content for prompt in second.held_out()}
    assert {content for _, content, _, _ in prompts(first)} == {line["prompt"] for line in LINES} - held_out
    assert len(first._training) == 15 - sum(line["prompt"] in held_out for line in [*LINES, *LINES[:5]])


def test_a_row_that_is_added_changes_no_other_held_out_prompt_but_one(tmp_path):
    lines = [{"prompt": f"question {n}"} for n in range(200)]
    before = {p.content for p in streamed(write(tmp_path, lines), held_out=20).held_out()}
    after = {p.content for p in streamed(write(tmp_path, [{"prompt": "new"}, *lines]), held_out=20).held_out()}
    assert len(before & after) >= 19


@pytest.mark.parametrize(("different", "held_out"), [(2, 1), (35, 3), (700, 64)])
def test_a_tenth_is_held_out_where_no_number_is_typed(tmp_path, different, held_out):
    path = write(tmp_path, [{"prompt": f"question {n}"} for n in range(different)])
    assert len(streamed(path, held_out=None).held_out()) == held_out
    with pytest.raises(ConfigError, match=f"has {different} different prompts and some must be left"):
        streamed(path, held_out=different)


def test_an_evaluation_prompt_that_is_trained_on_is_refused(tmp_path):
    path, other = write(tmp_path, LINES), write(tmp_path, [{"prompt": "new"}, {"prompt": "question 4"}], "eval.jsonl")
    with pytest.raises(ConfigError, match=r"eval.jsonl, line 2: .* trained on too \(.*my.jsonl, line 5\)"):
        streamed(path, eval_path=other)


def test_several_files_in_several_formats(tmp_path):
    write(tmp_path, LINES[:3], "data/a.jsonl")
    own_files.raw(tmp_path, "prompt,answer\nquestion 3,3\nquestion 4,4\n", "data/b.csv")
    own_files.parquet(tmp_path, LINES[5:], "data/c.parquet")
    subject = streamed(str(tmp_path / "data"), held_out=1)
    sources = {row.source.removeprefix(f"{tmp_path}/data/") for row in subject._training}
    assert sources < {*(f"a.jsonl, line {n}" for n in (1, 2, 3)), "b.csv, line 2", "b.csv, line 3",
                      *(f"c.parquet, row {n}" for n in range(1, 6))}  # fmt: skip
    assert len(sources) == 9


def test_long_rows_are_left_out_and_counted_before_the_first_prompt(tmp_path, caplog):
    path = write(tmp_path, [*LINES, {"prompt": "long " * 60}])
    with pytest.raises(ConfigError, match=r"my.jsonl, line 11: the prompt has 61 tokens.*task.skip_long=true"):
        streamed(path)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        subject = streamed(path, skip_long=True)
        assert "1 of 11 prompts are too long and left out" in caplog.text
        assert "long " * 60 not in {content for _, content, _, _ in prompts(subject)}
    with pytest.raises(ConfigError, match=r"^all prompts are too long; type model=NAME"):
        streamed(write(tmp_path, [{"prompt": "long " * 60}] * 3, "long.jsonl"), skip_long=True)


BAD = [
    (b'{"prompt": \n', r"my.jsonl, line 11: not JSON"),
    (b'{"prompt": "a", "prompt": "b"}\n', 'line 11: cannot be read \\("prompt" occurs twice'),
    (b'{"question": "a"}\n', r'line 11: there is no field "prompt", only question'),
    (b'{"prompt": " "}\n', "line 11: the prompt is empty"),
    (b'{"prompt": "\xe9"}\n', "line 11: not UTF-8"),
    (b"3\n", "line 11: a number, but an object"),
    (b'{"prompt": [{"role": "bot", "content": "x"}]}\n', "line 11: .*role 'bot' is none of"),
    (b'{"prompt": "a", "completions": 1}\n', 'line 11: "completions" is an argument that'),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_bad_line_is_named_before_any_work_and_nothing_is_kept(tmp_path, cache, content, message):
    path = write(tmp_path, LINES)
    Path(path).write_bytes(Path(path).read_bytes() + content)
    with pytest.raises(ConfigError, match=message) as raised:
        streamed(path)
    assert "\n" not in str(raised.value)
    assert not [*cache.glob(f"**/{INDEX}")]


def test_the_index_is_read_again_only_while_nothing_has_changed(tmp_path, cache):
    path = write(tmp_path, LINES)

    def indexes() -> int:
        return len([*cache.glob(f"**/{INDEX}")])

    streamed(path)
    streamed(path, seed=3, held_out=5)
    assert indexes() == 1
    streamed(path, context=65)
    assert indexes() == 2
    streamed(path, answer_column="answer")
    assert indexes() == 3
    write(tmp_path, LINES[:9])
    assert len(streamed(path)._training) == 7
    assert indexes() == 4


def test_a_file_that_changes_while_the_run_reads_it_is_named(tmp_path):
    path = write(tmp_path, LINES)
    subject = streamed(path)
    write(tmp_path, LINES[::-1] * 2)
    with pytest.raises(ConfigError, match=r"my.jsonl was changed while the run reads from it"):
        subject.draw(0, 1)


def test_the_fingerprint_is_of_the_rows_and_not_of_their_place(tmp_path):
    first = streamed(write(tmp_path, LINES)).fingerprints()
    assert first["training rows"].startswith("8 rows, streamed, ")
    assert streamed(write(tmp_path, LINES, "moved.jsonl")).fingerprints() == first
    assert streamed(own_files.parquet(tmp_path, LINES)).fingerprints() == first
    assert streamed(write(tmp_path, LINES[::-1], "other.jsonl")).fingerprints() != first
    changed = [*LINES[:9], {**LINES[9], "answer": 0}]
    assert streamed(write(tmp_path, changed, "edited.jsonl")).fingerprints() != first
    assert task(write(tmp_path, LINES)).fingerprints() != first  # which have another order


def test_a_typed_text_that_is_a_row_has_its_columns(tmp_path):
    subject = streamed(write(tmp_path, LINES))
    for n in range(10):
        assert subject.prompt_of(f"question {n}", position=0, source="prompt=").columns == {
            "answer": n,
            "topic": "sums",
        }
    assert subject.prompt_of("new", position=0, source="prompt=").columns == {}


def test_demonstrations_are_pure_and_those_that_do_not_fit_are_counted(tmp_path, caplog):
    lines = [
        {**line, "solution": f"It is {line['answer']}." + " long" * (60 * (line["answer"] == 3))} for line in LINES
    ]
    path, keys = write(tmp_path, lines), {"completion_column": "solution", "held_out": 1}
    with pytest.raises(ConfigError, match=r"line 4: the prompt and its example answer have \d+ tokens"):
        streamed(path, **keys).demonstrations(40, 0)
    pairs = streamed(path, skip_long=True, **keys).demonstrations(40, 0)
    assert len(pairs) == 40
    assert pairs[:7] == streamed(path, skip_long=True, **keys).demonstrations(7, 0)
    assert all(text == f"It is {str(prompt.content).split()[1]}." for prompt, text in pairs)
    assert "rows have no example answer that fits and are passed over" in caplog.text
    with pytest.raises(ConfigError, match="no answers to learn from"):
        streamed(write(tmp_path, LINES[:3], "none.jsonl"), held_out=1).demonstrations(1, 0)


def test_conversations_and_their_system_turn(tmp_path, caplog):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    lines = [{"messages": [*turns, {"role": "assistant", "content": f"d{n}"}]} for n in range(5)]
    with caplog.at_level(logging.INFO):
        subject = streamed(write(tmp_path, lines), prompt_column="messages", held_out=1)
    assert "5 of 5 prompts end with words of the assistant" in caplog.text
    assert subject.rendering()["system"] == "Be brief."
    assert {text for _, text in subject.demonstrations(30, 0)} <= {f"d{n}" for n in range(5)}


def test_only_held_out_rows_can_be_listed_and_left_out(tmp_path):
    subject = streamed(write(tmp_path, LINES))
    assert len(subject.rows()) == 2
    subject.leave_out([0])
    assert (len(subject.held_out()), len(subject._training)) == (1, 8)


def test_a_column_of_tools_that_no_line_has(tmp_path):
    with pytest.raises(ConfigError, match=r'no field "tool", only prompt, answer, topic; type task.tools_column=NAME'):
        streamed(write(tmp_path, LINES), tools_column="tool")


def test_one_json_array_cannot_be_streamed(tmp_path):
    path = own_files.raw(tmp_path, json.dumps(LINES), "my.json")
    with pytest.raises(
        ConfigError, match=r"^task.streaming=true: \S+my.json is one JSON array, .* task.streaming=false$"
    ):
        streamed(path)
    assert len(task(path, streaming="auto")._training) == 8


def test_binary_data_cannot_be_streamed(tmp_path):
    path = own_files.parquet(tmp_path, [{"prompt": f"question {n}", "image": b"\x00"} for n in range(3)])
    with pytest.raises(ConfigError, match=r"my.parquet, row 1: a field has binary data, .*task.streaming=false$"):
        streamed(path)


def test_large_files_are_streamed_unless_a_key_says_otherwise(tmp_path, monkeypatch):
    path = write(tmp_path, LINES)
    size = Path(path).stat().st_size
    for large, streaming, is_streamed in ((size - 1, "auto", True), (size, "auto", False), (1, False, False)):
        monkeypatch.setattr(sources, "LARGE", large)
        made = task(path, streaming=streaming).fingerprints()["training rows"]
        assert ("streamed" in made) == is_streamed
