"""Stories with concepts and for writing prompts, on small files in upstream's formats."""

import json
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.task.stories import Stories
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

CONCEPTS = {
    "train": [("dog ball park", "The dog runs to a ball and plays in the park."), ("cat sit", "A cat sits.")],
    "dev": [("chair dog sit", "A dog sat on the chair.")],
}
TRAIN = [
    ("[ WP ] You ca n't sleep .", "I got up . <newline> <newline> `` No , '' I said ."),
    ("[WP] You can't sleep.", "Another story ."),
    ("[ EU ] Frodo ( again )", "He walked ."),
    ("[ OT ] What pens do you use ?", "A blue one ."),
]
VALID = [("[ WP ] A door opens .", "It was dark .")]


def write_concepts(folder: Path) -> Path:
    for split, pairs in CONCEPTS.items():
        for part, column in (("src_alpha", 0), ("tgt", 1)):
            lines = "".join(f"{pair[column]}\n" for pair in pairs)
            (folder / f"commongen.{split}.{part}.txt").write_text(lines, "utf-8")
    return folder


def write_prompts(folder: Path) -> Path:
    for split, pairs in (("train", TRAIN), ("valid", VALID)):
        for part, column in (("wp_source", 0), ("wp_target", 1)):
            (folder / f"{split}.{part}").write_text("".join(f"{pair[column]}\n" for pair in pairs), "utf-8")
    return folder


def task(folder: Path, prompts: str, **keys) -> Stories:
    keys = with_rendering({"held_out": 1, **keys}, max_completion_length=40)
    return Stories(word_tokenizer(["word"]), 256, data_dir=str(folder), prompts=prompts, **keys)


def test_stories_with_concepts(tmp_path):
    subject = task(write_concepts(tmp_path), "concepts")
    (prompt,) = subject.held_out()
    assert prompt.content == "Write a story of three to five sentences that uses all of these words: chair, dog, sit."
    verdicts = {
        "The dog runs to a chair. It sat in the park. A cat plays.": (1.0, True),
        "The dog runs to a ball. It sat in the park. A cat plays.": (2 / 3, False),
        "The dog runs to a chair. It sat in the park.": (0.0, False),
        "The dog runs to a chair and sits.": (0.0, False),
        "": (0.0, False),
    }
    for text, (reward, correct) in verdicts.items():
        verdict = subject.check(prompt, text, True)
        assert (verdict.reward, verdict.correct) == (pytest.approx(reward), correct), text
        assert subject.check(prompt, text, False).reward == 0.0
    with pytest.raises(ConfigError, match="no answers to learn from"):
        subject.demonstrations(1, 0)


def test_writing_prompts(tmp_path):
    subject = task(write_prompts(tmp_path), "writing_prompts")
    demonstrations = {(p.content, text) for p, text in subject.demonstrations(20, 0)}
    lead = "Write a short story for this writing prompt.\n\n"
    assert demonstrations == {
        (f"{lead}You can't sleep.", 'I got up.\n\n"No," I said.'),
        (f"{lead}Frodo (again)", "He walked."),
    }
    assert [prompt.content for prompt in subject.held_out()] == [f"{lead}A door opens."]
    with pytest.raises(
        ConfigError, match=r"reward=check cannot judge them; type reward=reward_model reward.path=MODEL"
    ):
        subject.check(subject.held_out()[0], "It was dark.", True)


def test_writing_prompts_as_lines_are_the_same(tmp_path):
    (tmp_path / "lines").mkdir()
    for split, pairs in (("train", TRAIN), ("validation", VALID)):
        rows = [{"prompt": prompt, "story": story} for prompt, story in pairs]
        (tmp_path / "lines" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    ours = task(tmp_path / "lines", "writing_prompts").fingerprints()
    assert ours == task(write_prompts(tmp_path), "writing_prompts").fingerprints()


def test_files_whose_lines_do_not_match(tmp_path):
    (write_prompts(tmp_path) / "valid.wp_target").write_text("\n\nA story.\n", "utf-8")
    with pytest.raises(ConfigError, match=r"valid.wp_source, line 1: it and valid.wp_target do not match line by line"):
        task(tmp_path, "writing_prompts")


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"train.jsonl: No such file .*; type task.data_dir=FOLDER with train.jsonl"):
        task(tmp_path, "writing_prompts")
    with pytest.raises(ConfigError, match=r"commongen.train.src_alpha.txt: No such file"):
        task(tmp_path, "concepts")
