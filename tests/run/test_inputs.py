"""What a resumed run reads is compared with what the run had read."""

import logging

import pytest

from dqo.config.schema import Config
from dqo.errors import ConfigError
from dqo.models.folders import save_policy
from dqo.run.inputs import model_inputs, refuse_other_inputs, task_inputs
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.composing import composed
from tests.helpers.toy_stages import CountingTask

ROWS = {"training rows": "35 rows, 4f0c", "held-out rows": "3 rows, 91aa", "chat template": "77bd"}


class Rows(CountingTask):
    """A task that says what its data are."""

    def __init__(self, **changes: str):
        self.changes = changes

    def fingerprints(self):
        return ROWS | {name.replace("_", " "): value for name, value in self.changes.items()}


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "r.py").write_text("def score(completions): return [1.0] * len(completions)")
    return composed("task=jsonl", "task.path=/data/my.jsonl", "reward=python", f"reward.function={tmp_path}/r.py:score")


def test_the_same_data_in_another_place_are_accepted(config, caplog):
    saved = task_inputs(config, Rows())
    assert ROWS.items() < saved.items()
    with caplog.at_level(logging.WARNING):
        refuse_other_inputs(config, task_inputs(config, Rows()), saved)
        refuse_other_inputs(config, saved, None)
        refuse_other_inputs(config, saved, {})  # of an older dqo
    assert not caplog.text


def test_other_rows_are_refused_with_what_differs_and_what_to_type(config):
    saved = task_inputs(config, Rows())
    given = config.model_copy(update={"resume": "run"})
    with pytest.raises(ConfigError) as raised:
        refuse_other_inputs(given, task_inputs(config, Rows(training_rows="40 rows, 0b1c")), saved)
    assert str(raised.value) == (
        "resume=run: not the training rows that the run was started with (now 40 rows, 0b1c, then 35 rows, 4f0c); type "
        "task.path=PATH of the same content, or start a new run with run_dir=ANOTHER_FOLDER in place of resume="
    )
    with pytest.raises(ConfigError, match=r"not the chat template .* type model.chat_template=PATH or model.path=PATH"):
        refuse_other_inputs(given, task_inputs(config, Rows(chat_template="0000")), saved)


def test_a_reward_file_edited_in_its_place_is_warned_of_and_another_file_elsewhere_refused(config, tmp_path, caplog):
    task = CountingTask()  # a user's own, without fingerprints
    saved = task_inputs(config, task)
    (tmp_path / "r.py").write_text("def score(completions): return [2.0] * len(completions)")
    with caplog.at_level(logging.WARNING):
        refuse_other_inputs(config, task_inputs(config, task), saved)
    assert f"{tmp_path}/r.py was edited since the run was started" in caplog.text
    (tmp_path / "there").mkdir()
    moved = composed("reward=python", f"reward.function={tmp_path}/there/r.py:score")
    (tmp_path / "there" / "r.py").write_text((tmp_path / "r.py").read_text())
    with pytest.raises(
        ConfigError, match=r"there/r.py is not the same file as .*/r.py, with which .* type reward.func"
    ):
        refuse_other_inputs(moved, task_inputs(moved, task), saved)
    (tmp_path / "there" / "r.py").write_text("def score(completions): return [1.0] * len(completions)")
    refuse_other_inputs(moved, task_inputs(moved, task), saved)


@pytest.mark.parametrize(("option", "key"), [("algorithm=ppo", "critic.path"), ("reward=reward_model", "reward.path")])
def test_another_model_in_its_folder_is_warned_of_and_elsewhere_refused(tmp_path, caplog, option, key):
    """With LoRA the frozen weights of a critic are read from there again, and those of a reward model always are."""
    for name, seed in (("a", 0), ("b", 1)):
        tiny_llama(seed=seed).save_pretrained(tmp_path / name)
    one, other = (composed(option, f"{key}={tmp_path / name}") for name in ("a", "b"))
    saved = task_inputs(one, CountingTask())
    with pytest.raises(ConfigError, match=r"/b is not the same file as .*/a, with which .* type " + key + "=PATH"):
        refuse_other_inputs(other, task_inputs(other, CountingTask()), saved)
    refuse_other_inputs(one, task_inputs(one, CountingTask()), saved)
    tiny_llama(seed=2).save_pretrained(tmp_path / "a")
    assert not caplog.text
    refuse_other_inputs(one, task_inputs(one, CountingTask()), saved)
    assert f"{tmp_path / 'a'} was edited since the run was started" in caplog.text


def test_files_of_a_task_that_says_nothing_of_its_data(tmp_path):
    (tmp_path / "words.txt").write_text("dog")
    config = composed().model_copy(update={"task": {"_target_": "mine.Task", "word_file": f"{tmp_path}/words.txt"}})
    assert task_inputs(config, CountingTask()).keys() == {"task.word_file 1"}


def test_weights_are_known_wherever_they_lie_and_whatever_differs(config, tmp_path):
    first, second = tiny_llama(seed=0), tiny_llama(seed=1)
    saved = model_inputs(first)
    assert model_inputs(tiny_llama(seed=0)) == saved
    save_policy(first, word_tokenizer(), tmp_path / "moved")
    assert model_inputs(type(first).from_pretrained(tmp_path / "moved")) == saved
    with pytest.raises(
        ConfigError, match=r"not the weights that the run was started with .* type model.path=PATH of the"
    ):
        refuse_other_inputs(config, model_inputs(second), saved)
