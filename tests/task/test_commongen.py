"""CommonGen on small files in upstream's format, on faulty files, and on the real files if they are present."""

from pathlib import Path

import datasets
import pytest

from dqo.errors import ConfigError
from dqo.task.commongen import CommonGen
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

REAL = Path(__file__).parents[2] / "../shared/data/commongen"
TRAIN = [
    ("dog ball park", "A dog runs to the ball in the park."),
    ("dog ball park", "the dog plays with a ball at the park"),
    ("park dog ball", "In the park, a man throws a ball to his dog."),
    ("sit chair cat", "The cat sits on a chair ."),
]
DEV = [
    ("chair dog sit", "A dog sat on the chair."),
    ("ball dog park", "A dog in the park with a ball."),
    ("cat park", "A cat is in the park."),
]


def write(folder: Path, train=TRAIN, dev=DEV) -> Path:
    for split, pairs in (("train", train), ("dev", dev)):
        for part, column in (("src_alpha", 0), ("tgt", 1)):
            lines = "".join(f"{pair[column]}\n" for pair in pairs)
            (folder / f"commongen.{split}.{part}.txt").write_text(lines, "utf-8")
    return folder


def task(folder: Path, **keys) -> CommonGen:
    keys = with_rendering({"held_out": 2, **keys}, max_completion_length=40)
    return CommonGen(word_tokenizer(["word"]), 256, data_dir=str(folder), **keys)


def test_a_folder_saved_by_datasets(tmp_path):
    datasets.disable_progress_bars()
    splits = {
        name: datasets.Dataset.from_list([{"concepts": words.split(), "target": text} for words, text in pairs])
        for name, pairs in (("train", TRAIN), ("validation", DEV))
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    (tmp_path / "texts").mkdir()
    assert task(tmp_path / "saved").fingerprints() == task(write(tmp_path / "texts")).fingerprints()


def test_rows_are_concept_sets(tmp_path):
    subject = task(write(tmp_path))
    assert {p.content for p in subject.draw(0, 6)[0]} == {
        "Write one short sentence that uses all of these words: dog, ball, park.",
        "Write one short sentence that uses all of these words: sit, chair, cat.",
    }
    assert {frozenset(p.columns["concepts"]) for p in subject.held_out()} == {
        frozenset({"chair", "dog", "sit"}),
        frozenset({"cat", "park"}),
    }  # not {ball, dog, park}, which is a training set


def test_held_out_sets_are_the_same_for_every_seed(tmp_path):
    folder = write(tmp_path, dev=[(f"cat park thing{n}", "x") for n in range(9)])
    first, second = (task(folder, seed=seed, held_out=4).held_out() for seed in (0, 1))
    assert first == second
    assert len(first) == 4


def test_demonstrations_get_capital_and_full_stop(tmp_path):
    pairs = task(write(tmp_path)).demonstrations(40, 0)
    assert {text for _, text in pairs} == {
        "A dog runs to the ball in the park.",
        "The dog plays with a ball at the park.",
        "In the park, a man throws a ball to his dog.",
        "The cat sits on a chair.",
    }


def test_check(tmp_path):
    subject = task(write(tmp_path))
    prompt = next(p for p in subject.held_out() if "sit" in p.columns["concepts"])
    verdicts = {
        "A dog sat on the chair.": (1.0, True),
        "The dog sits on the chairs!": (1.0, True),
        "The dog runs to the chair.": (2 / 3, False),
        "The man is in the park.": (0.0, False),
        "dog chair sit": (0.0, False),
        "A dog sat on the chair. 🎈": (0.0, False),
        "A dog glorps a chair snark and sits.": (0.0, False),
    }
    for text, (reward, correct) in verdicts.items():
        verdict = subject.check(prompt, text, True)
        assert (verdict.reward, verdict.correct) == (pytest.approx(reward), correct), text
    assert subject.check(prompt, "A dog sat on the chair.", False).reward == 0.0


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"commongen.train.src_alpha.txt: No such file .*; type task.data_dir=FOLDER"):
        task(tmp_path)


def test_files_whose_lines_do_not_match(tmp_path):
    folder = write(tmp_path)
    (folder / "commongen.dev.tgt.txt").write_text("one line\n", "utf-8")
    with pytest.raises(ConfigError, match=r"dev.src_alpha.txt, line 2: .*commongen.dev.tgt.txt.*line by line"):
        task(folder)


def test_more_held_out_than_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"task.held_out=3: 1 to 2 can be; type task.held_out=2"):
        task(write(tmp_path), held_out=3)


@pytest.mark.skipif(not REAL.exists(), reason="needs the shared data folder")
def test_real_files():
    subject = task(REAL, held_out=991)
    trained = {frozenset(row.columns["concepts"]) for row in subject._training}
    held_out = subject.held_out()
    assert len(trained) == len(subject._training) == 26_749
    assert not trained & {frozenset(p.columns["concepts"]) for p in held_out}
    assert {len(p.columns["concepts"]) for p in held_out[:200]} == {3, 4, 5}
    # Human sentences pass the check; all words of the training split's sentences are known.
    pairs = subject.demonstrations(1000, 0)
    assert sum(subject.check(p, text, True).correct for p, text in pairs) >= 920
