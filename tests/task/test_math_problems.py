"""MATH on small files in upstream's and other formats, and on faulty files."""

import json
import logging
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.math_problems import Math
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering


def problem(text: str, solution: str, level="Level 1", kind="Algebra", **more):
    return {"problem": text, "solution": solution, "level": level, "type": kind, **more}


TRAIN = [
    problem("Find $x$.", "First $\\boxed{3}$, no: $x=\\boxed{\\frac{1}{2}}$."),
    problem("Who?", "It is $\\boxed{\\text{Evelyn}}.$", level="Level ?", kind="Geometry"),
]
TEST = [
    {"problem": "Point?", "solution": "So $(3,\\pi)$.", "answer": "(3, \\pi)", "level": 2, "subject": "Precalculus"},
    problem("Find $x$.", "$\\boxed{2}$"),  # trained on
    problem("Sum?", "$1+1=\\boxed{2}$", level="Level 5"),
]


def write(folder: Path, train=TRAIN, test=TEST) -> Path:
    for name, rows in (("train.jsonl", train), ("test.jsonl", test)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return folder


def task(folder: Path, **keys) -> Math:
    keys = {"held_out": 1, "subjects": None, "levels": None, "skip_long": False, **keys}
    source = {"data_dir": str(folder), "hub": "none/none", "subset": None, "eval_set": "test"}
    return Math(word_tokenizer(["word"]), 1024, **source, **with_rendering(keys, max_completion_length=40))


def test_prompts_and_columns(tmp_path):
    subject = task(write(tmp_path), held_out=2)
    prompts = {str(p.content).split("\n")[0]: p for p in [*subject.draw(0, 2)[0], *subject.held_out()]}
    assert prompts["Find $x$."].columns == {
        "answer": "\\frac{1}{2}", "solution": TRAIN[0]["solution"], "level": 1, "subject": "Algebra",
    }  # fmt: skip
    assert prompts["Find $x$."].content == ("Find $x$.\n\nReason step by step, and put the final answer in \\boxed{}.")
    assert (prompts["Who?"].columns["answer"], prompts["Who?"].columns["level"]) == ("\\text{Evelyn}", None)
    assert (prompts["Point?"].columns["answer"], prompts["Point?"].columns["level"]) == ("(3, \\pi)", 2)
    assert prompts["Sum?"].columns["answer"] == "2"


def test_demonstrations_are_solutions_and_right(tmp_path):
    subject = task(write(tmp_path))
    pairs = subject.demonstrations(10, 0)
    assert {text for _, text in pairs} == {row["solution"] for row in TRAIN}
    assert all(subject.check(prompt, text, True).correct for prompt, text in pairs)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\\boxed{\\frac{1}{2}}", True),
        ("\\boxed{\\dfrac12}", True),
        ("\\boxed{0.5}", True),
        ("\\boxed{1/2}", True),
        ("The answer is 1/2.", True),
        ("\\boxed{2}, no, \\boxed{ \\frac12 }", True),
        ("\\boxed{\\frac{1}{3}}", False),
        ("\\boxed{}", False),
        ("1/2", False),
        ("", False),
        ("\\boxed{" + "9" * 5000 + "}", False),
    ],
)
def test_check(tmp_path, text, right):
    subject = task(write(tmp_path, train=TRAIN[:1]))
    (prompt,), _ = subject.draw(0, 1)
    assert subject.check(prompt, text, True).correct is right
    assert not subject.check(prompt, text, False).correct


def test_answers_that_are_no_numbers(tmp_path):
    subject = task(write(tmp_path, test=TEST[:1]))
    (point,) = subject.held_out()
    assert subject.check(point, "\\boxed{(3,\\pi)}", True).correct
    assert not subject.check(point, "\\boxed{(\\pi,3)}", True).correct


def test_key_is_the_sequence_of_formulas(tmp_path):
    subject = task(write(tmp_path))
    (prompt,) = subject.held_out()
    way = subject.key(prompt, "We have $x + 1 = 2$, so $x = 1$. \\boxed{1}")
    assert subject.key(prompt, "From \\(x+1=2\\) it follows that $$x=1$$ \\boxed{1} and $x$ is found") == way
    assert subject.key(prompt, "By trying, $x = 1$. \\boxed{1}") != way
    assert subject.key(prompt, "2 and 3 make 5") == subject.key(prompt, "Add 2, 3: 5")
    assert subject.key(prompt, "Trivial.") == "trivial"


def test_some_subjects_and_levels(tmp_path):
    subject = task(write(tmp_path), subjects=["Algebra", "Precalculus"], levels=[1, 2])
    assert {p.columns["subject"] for p in subject.draw(0, 3)[0]} == {"Algebra"}
    assert subject.held_out()[0].columns["subject"] == "Precalculus"
    with pytest.raises(
        ConfigError, match=r"task.subjects: no problem is of Number Theory; there are Algebra, Geometry"
    ):
        task(tmp_path, subjects=["Number Theory"])
    with pytest.raises(ConfigError, match=r"task.levels: no problem is of 4; there are 1"):
        task(tmp_path, levels=[4])


def test_upstreams_tree_of_files(tmp_path):
    for split, rows in (("train", TRAIN), ("test", TEST)):
        for number, row in enumerate(rows):
            path = tmp_path / "tree" / split / "subject" / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row, indent=1), "utf-8")
    (tmp_path / "lines").mkdir()
    ours = task(tmp_path / "tree", held_out=2).fingerprints()
    assert ours == task(write(tmp_path / "lines"), held_out=2).fingerprints()
    (tmp_path / "tree/train/subject/0.json").write_text("[1]", "utf-8")
    with pytest.raises(ConfigError, match=r"train/subject/0.json: an array, but an object is needed; mend the file"):
        task(tmp_path / "tree")
    (tmp_path / "tree/train/subject/0.json").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match=r"train/subject/0.json: not JSON"):
        task(tmp_path / "tree")


def test_problems_without_an_answer_are_left_out(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        subject = task(write(tmp_path, train=[*TRAIN, problem("Why?", "Because.")]))
    assert "1 of 3 problems have no answer and are left out" in caplog.text
    assert len(subject._training) == 2
    with pytest.raises(
        ConfigError, match=r"no row has an answer, a field .* type task.data_dir=FOLDER with train.jsonl"
    ):
        task(write(tmp_path, train=[problem("Why?", "Because.")]))


def test_malformed_row(tmp_path):
    with pytest.raises(ConfigError, match=r'train.jsonl, line 3: "problem" and "solution" are needed as text'):
        task(write(tmp_path, train=[*TRAIN, {"problem": "x"}]))
