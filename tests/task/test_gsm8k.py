"""GSM8K on small files in upstream's format, on faulty files, and on the real files if they are present."""

import json
from pathlib import Path

import datasets
import pytest

from dqo.errors import ConfigError
from dqo.task.gsm8k import Gsm8k
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

REAL = Path(__file__).parents[2] / "../shared/data/gsm8k"
TRAIN = [
    {"question": "What is 3 times 4?", "answer": "It is 3*4=<<3*4=12>>12.\n#### 12"},
    {"question": "How much are 2 of $1,000?", "answer": "2*1,000=$<<2*1000=2000>>2,000\n#### 2,000"},
]
TEST = [
    {"question": "What is 1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    {"question": "And 5-8?", "answer": "5-8=-3\n#### -3"},
]


def write(folder: Path, train=TRAIN, test=TEST) -> Path:
    for name, rows in (("train.jsonl", train), ("test.jsonl", test)):
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return folder


def task(folder: Path | None, **keys) -> Gsm8k:
    keys = with_rendering({"held_out": 2, **keys}, max_completion_length=40)
    return Gsm8k(word_tokenizer(["word"]), 1024, data_dir=None if folder is None else str(folder), **keys)


def test_prompts_and_columns(tmp_path):
    subject = task(write(tmp_path))
    prompts = {str(p.content).split("\n")[0]: p for p in subject.draw(0, 2)[0]}
    twelve, thousands = prompts["What is 3 times 4?"], prompts["How much are 2 of $1,000?"]
    assert twelve.content == "What is 3 times 4?\n\nReason step by step, and put the final answer in \\boxed{}."
    assert twelve.columns == {"answer": "12", "solution": TRAIN[0]["answer"]}
    assert thousands.columns["answer"] == "2000"
    assert [p.columns["answer"] for p in subject.held_out()] == ["2", "-3"]


def test_demonstrations_end_in_a_box_and_are_right(tmp_path):
    subject = task(write(tmp_path))
    pairs = subject.demonstrations(4, 0)
    assert "It is 3*4=12.\nThe answer is \\boxed{12}." in [text for _, text in pairs]
    assert all(subject.check(prompt, text, True).correct for prompt, text in pairs)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\\boxed{2}", True),
        ("First \\boxed{3}, no, \\boxed{2}.", True),
        ("\\boxed{2} and then 7 more words", True),
        ("So it is 2.", True),
        ("So it is 2.00", True),
        ("\\boxed{4/2}", True),
        ("\\boxed{3}", False),
        ("It is 2, not 3", False),
        ("\\boxed{}", False),
        ("\\boxed{2/0}", False),
        ("two", False),
        ("", False),
    ],
)
def test_check(tmp_path, text, right):
    subject = task(write(tmp_path))
    prompt = subject.held_out()[0]
    assert subject.check(prompt, text, True).correct is right
    assert not subject.check(prompt, text, False).correct


def test_signs_and_thousands(tmp_path):
    subject = task(write(tmp_path))
    minus_three = subject.held_out()[1]
    assert subject.check(minus_three, "\\boxed{-3}", True).correct
    assert not subject.check(minus_three, "8-3", True).correct
    thousands = next(p for p in subject.draw(0, 2)[0] if p.columns["answer"] == "2000")
    assert subject.check(thousands, "$2,000 in all, of course: \\boxed{\\$2,000}", True).correct


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (r"\boxed{\$2}", True),
        (r"\boxed{2\%}", True),
        (r"\boxed{\text{2 apples}}", True),
        (r"\boxed{\frac{4}{2}}", True),
        (r"\boxed{1 1/2}", False),
        (r"\boxed{2\frac{1}{2}}", False),
        ("It is 1 1/2.", False),  # and not its last number, 1/2
        (r"\boxed{2,000}", False),
        (r"\boxed{2{,}000}", False),
        (r"so \boxed{2", False),  # cut
    ],
)
def test_a_number_in_any_notation(tmp_path, text, right):
    subject = task(write(tmp_path))
    assert subject.check(subject.held_out()[0], text, True).correct is right


def test_key_is_the_way_of_calculating(tmp_path):
    subject = task(write(tmp_path))
    prompt = subject.held_out()[0]
    way = subject.key(prompt, "She has 3 bags of 4, so 3*4 = 12. \\boxed{12}")
    assert subject.key(prompt, "Three (3) times 4 makes 12.") == way
    assert subject.key(prompt, "4 + 4 = 8, and 8 + 4 = 12") != way
    assert subject.key(prompt, "No numbers.") == "no numbers"


@pytest.mark.parametrize(
    ("text", "value"), [("0.03/4", "3/400"), ("1,000/8", "125"), ("7/0", "None"), ("9" * 5000, "None")]
)
def test_fractions_division_by_zero_and_endless_digits(tmp_path, text, value):
    subject = task(write(tmp_path))
    prompt, _ = subject.draw(0, 1)
    assert subject.key(prompt[0], text) == value
    assert not subject.check(prompt[0], text, True).correct


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "What?"},
            r'train.jsonl, line 3: "question" and "answer" are needed as text; the row has question',
        ),
        ({"question": 3, "answer": "#### 3"}, r"train.jsonl, line 3: .* the row has question, answer"),
        ({"question": "What?", "answer": "It is 3."}, r"train.jsonl, line 3: the answer does not end in"),
        ({"question": "What?", "answer": "#### three"}, r"train.jsonl, line 3: the answer does not end in"),
        ([1], r"train.jsonl, line 3: an array, but an object"),
    ],
)
def test_malformed_line(tmp_path, row, message):
    with pytest.raises(ConfigError, match=message):
        task(write(tmp_path, train=[*TRAIN, row]))


def test_a_folder_saved_by_datasets(tmp_path):
    datasets.disable_progress_bars()
    splits = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (tmp_path / "lines").mkdir()
    assert task(tmp_path / "saved").fingerprints() == task(write(tmp_path / "lines")).fingerprints()


def test_missing_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"none/train.jsonl: No such file .*; type task.data_dir=FOLDER with train"):
        task(tmp_path / "none")


def test_more_held_out_than_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"task.held_out=3: the test split has 2 rows; type task.held_out=2"):
        task(write(tmp_path), held_out=3)


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data folder")
def test_real_files():
    subject = task(REAL, held_out=1319)
    assert len(subject.held_out()) == 1319
    assert len(subject._training) == 7473
    assert all(subject.check(prompt, text, True).correct for prompt, text in subject.demonstrations(7473, 0))
