"""Countdown and graph colouring in modebench's format, judged by its own verifier in its own process."""

import json
import logging
import time
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dqo.errors import ConfigError, StageError
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

pytest.importorskip("modebench")
from dqo.task.modebench import ModeBench

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def countdown(target: int, *numbers: int) -> dict:
    answer = {"verifier": "countdown", "numbers": list(numbers), "target": target, "instance_id": f"made-{target}"}
    return {"problem": f"Using the numbers {list(numbers)}, reach {target}.", "answer": json.dumps(answer),
            "modebench_task": "countdown", "answer_mode_count": 8, "answer_mode_split": "multi"}  # fmt: skip


def coloring(*partial: int | None) -> dict:
    answer = {"verifier": "graph_coloring", "n": 3, "edges": [[1, 2], [2, 3]], "partial_colors": list(partial)}
    return {"problem": f"Color the graph {list(partial)}.", "answer": json.dumps(answer), "answer_mode_count": 2}


def write(folder: Path, train: list[dict], evaluation: list[dict], domain: str = "countdown", level: int = 1) -> Path:
    place = folder / f"level{level}" / domain
    place.mkdir(parents=True)
    for name, rows in (("train", train), ("eval", evaluation)):
        pq.write_table(pa.Table.from_pylist(rows), place / f"{name}.parquet")
    return folder


TRAIN, EVALUATION = [countdown(18, 3, 6, 9), countdown(10, 2, 3, 5)], [countdown(24, 4, 6), countdown(9, 2, 3, 4)]


@pytest.fixture
def make():
    made: list[ModeBench] = []

    def task(folder: Path | None, words=None, **keys) -> ModeBench:
        keys = with_rendering({"domain": "countdown", "level": 1, "held_out": 1, **keys}, max_completion_length=40)
        made.append(
            ModeBench(words or word_tokenizer(["word"]), 4096, data_dir=None if folder is None else str(folder), **keys)
        )
        return made[-1]

    yield task
    for each in made:
        each.close()


def test_countdown(make, tmp_path):
    task = make(write(tmp_path, TRAIN, EVALUATION), held_out=2)
    prompt = next(p for p in task.draw(0, 2)[0] if "18" in str(p.content))
    assert prompt.columns["modes"] == 8
    right, commuted, other = "(3+(6+9))", "\\boxed{9+6+3}", "((3+6)+9)"
    for text in (right, commuted, other):
        assert task.check(prompt, text, True).reward == 1.0
        assert not task.check(prompt, text, False).correct
    assert task.key(prompt, right) == task.key(prompt, "(9+6)+3") != task.key(prompt, other)
    for text in ("18", "3+6", "3+6+9+9", "9**9**9", "", "not a solution", "(" * 5000, "9" * 200_000, "\x00"):
        assert not task.check(prompt, text, True).correct
    assert task.key(prompt, "Not a  solution.") == "not a solution"
    assert task.counters() == {"timeouts": 0, "over_limits": 1}  # 200,000 characters


def test_graph_coloring(make, tmp_path):
    rows = [coloring(1, None, None)], [coloring(None, 2, None)]
    task = make(write(tmp_path, *rows, domain="graph_coloring", level=2), domain="graph_coloring", level=2)
    (prompt,) = task.held_out()
    answers = ("121", "123", "321", "222", "122", "12", "x")
    assert [text for text in answers if task.check(prompt, text, True).correct] == ["121", "123", "321"]
    assert task.key(prompt, "\\boxed{13}") == task.key(prompt, "1, 2, 3") != task.key(prompt, "121")


def test_code_that_runs_long_is_stopped_and_wrong(make, tmp_path):
    walkthrough = json.loads(files("modebench").joinpath("walkthrough.json").read_text("utf-8"))
    spec = next(each for each in walkthrough["records"] if each["domain"] == "python_factors")
    rows = [{"problem": f"{spec['problem']} ({name})", "answer": spec["answer"]} for name in "ab"]
    task = make(write(tmp_path, rows[:1], rows[1:], domain="python_factors"), domain="python_factors")
    (prompt,) = task.held_out()
    right = spec["responses"][0]
    assert task.check(prompt, right, True).correct
    start = time.perf_counter()
    for text in ("lambda n: 9**9**9**9", "lambda n: (lambda: 1)()", "lambda n: " + "9*" * 100 + "9", "import os"):
        assert not task.check(prompt, text, True).correct
    assert time.perf_counter() - start < 60
    assert task.check(prompt, right, True).correct


def test_messages_are_modebenchs_own(make, tmp_path):
    words = word_tokenizer(["word"])
    words.chat_template = CHAT
    task = make(write(tmp_path, TRAIN, EVALUATION), words)
    (prompt,) = task.held_out()
    assert [message["role"] for message in prompt.content] == ["system", "user"]
    assert "reach 24" in prompt.content[1]["content"] and "boxed" in prompt.content[0]["content"]


def test_a_process_that_dies_is_started_again(make, tmp_path):
    task = make(write(tmp_path, TRAIN, EVALUATION))
    (prompt,) = task.held_out()
    task._worker._process.kill()
    task._worker._process.wait()
    assert task.check(prompt, "4*6", True).correct


def test_data_that_is_not_the_published_one_is_said(make, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        make(write(tmp_path, TRAIN, EVALUATION))
    assert "eval.parquet is not the published split of modebench" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, r'eval.parquet, row 1: "problem" as text and "answer" are needed; the row has question'),
        ({**EVALUATION[0], "answer": "{"}, r"eval.parquet, row 1: modebench refuses the .answer. \(.*type task.data"),
        ({**EVALUATION[0], "answer": '{"verifier": "mathir"}'}, "does not match domain 'countdown'"),
        ({**EVALUATION[0], "answer": '{"verifier": "countdown", "numbers": [], "target": 3}'}, "must be a nonempty"),
    ],
)  # fmt: skip
def test_malformed_rows(make, tmp_path, row, message):
    with pytest.raises(ConfigError, match=message):
        make(write(tmp_path, TRAIN, [row]))


def test_missing_files_and_too_many_held_out(make, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"level1/countdown/train.parquet: No such file.*type task.data_dir=FOLDER"):
        make(tmp_path)
    with pytest.raises(ConfigError, match=r"task.held_out=3: the split eval has 2 rows; type task.held_out=2"):
        make(write(tmp_path, TRAIN, EVALUATION), held_out=3)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"task.data_dir=null: .*not cached.*type task.data_dir=FOLDER"):
        make(None)


def test_a_verifier_that_cannot_start(make, tmp_path, monkeypatch):
    task = make(write(tmp_path, TRAIN, EVALUATION))
    (prompt,) = task.held_out()
    task.close()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(StageError, match="modebench's verifier"):
        task.check(prompt, "4*6", True)
