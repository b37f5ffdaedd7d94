"""Files and folders that keys name: absolute in what is saved, names of the hub left as they are."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dqo.config.paths import absolute_paths, has_moved, names_path, path_keys, with_overrides, with_values
from dqo.config.schema import Config
from dqo.config.typed import check
from dqo.errors import ConfigError
from tests.config.builders import composed


def config(*options: str, **changes) -> Config:
    return check(composed("task=jsonl", "model=hf", *options, **changes))


@pytest.fixture
def here(tmp_path):
    for name in ("my.jsonl", "eval.jsonl", "r.py", "chat.jinja", "sub/s.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("models/a", "encoder", "gpt2"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "key", "value", "absolute"),
    [
        ((), "task.path", "my.jsonl", "my.jsonl"),
        ((), "task.path", "./my.jsonl", "my.jsonl"),
        ((), "task.eval_path", "eval.jsonl", "eval.jsonl"),
        ((), "task.path", "*.jsonl", "*.jsonl"),
        ((), "task.path", "su?/**/*.py", "su?/**/*.py"),
        (("task=gsm8k",), "task.data_dir", ".", ""),
        ((), "model.path", "models/a", "models/a"),
        ((), "model.path", "gpt2", "gpt2"),  # a name of the hub, and a folder here: the folder is meant
        ((), "model.chat_template", "chat.jinja", "chat.jinja"),
        ((), "embed.model", "encoder", "encoder"),
        ((), "eval.nli", "encoder", "encoder"),
        ((), "eval.novelty.classifier", "encoder", "encoder"),
        (("reward=python",), "reward.function", "r.py:score", "r.py:score"),
        (("reward=check_and_python",), "reward.parts.style.function", "sub/s.py:f", "sub/s.py:f"),
    ],
)
def test_a_relative_path_becomes_absolute(here, options, key, value, absolute):
    found = absolute_paths(config(*options, **{key.replace(".", "__"): value}), here)
    assert found == {key: str(here / absolute)}


def test_the_paths_of_scorers_are_replaced(here):
    given = config(eval__nli="gpt2", eval__novelty__reward_model="encoder")
    evaluation = with_values(given, absolute_paths(given, here)).eval
    assert (evaluation.nli, evaluation.novelty.reward_model) == (f"{here}/gpt2", f"{here}/encoder")
    assert with_values(given, {}) == given


def test_a_list_of_files_and_a_pattern_without_a_file(here):
    given = config(task__path=["my.jsonl", "no*.jsonl", "*.jsonl"])
    assert absolute_paths(given, here) == {"task.path": [f"{here}/my.jsonl", "no*.jsonl", f"{here}/*.jsonl"]}


def test_a_list_of_reward_functions(here):
    given = config("reward=python", reward__function=["r.py:score", "my_module.score", "sub/s.py:f"])
    found = absolute_paths(given, here)
    assert found == {"reward.function": [f"{here}/r.py:score", "my_module.score", f"{here}/sub/s.py:f"]}
    assert with_values(given, found).reward["function"] == found["reward.function"]
    assert with_overrides(["reward.function=[r.py:score,my_module.score,sub/s.py:f]"], found) == [
        f"reward.function=[{here}/r.py:score,my_module.score,{here}/sub/s.py:f]"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.path", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("model.path", "/nowhere/model"),
        ("model.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}" * 20),
        ("task.path", "gone.jsonl"),
        ("task.path", "~nobody/my.jsonl"),
        ("task.answer_column", "encoder"),  # a folder has this name, but the key names none
        ("task.columns", {"path": "my.jsonl"}),  # the user's own names
        ("reward.function", "my_module.score"),
    ],
)
def test_what_is_no_path_is_left_as_it_is(here, key, value):
    assert absolute_paths(config("reward=python", "reward.function=a.b", **{key.replace(".", "__"): value}), here) == {}


def test_the_home_folder_of_nobody_is_refused(here):
    with pytest.raises(ConfigError, match=r"^task.path=~no-such-user/my.jsonl: no user .*; type the whole path$"):
        absolute_paths(config(task__path="~no-such-user/my.jsonl"), here)


def test_a_path_from_the_home_folder_from_above_and_a_users_own_key(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    assert absolute_paths(config(task__path="~/my.jsonl"), here / "sub") == {"task.path": f"{here}/my.jsonl"}
    assert absolute_paths(config(task__path="../my.jsonl"), here / "sub") == {"task.path": f"{here}/my.jsonl"}
    own = {"_target_": "mine.Credit", "lexicon_file": "my.jsonl", "kind": "encoder"}
    assert absolute_paths(config().model_copy(update={"credit": own}), here) == {
        "credit.lexicon_file": f"{here}/my.jsonl"
    }


def test_files_of_a_project_that_has_moved_are_found_in_it(here, tmp_path):
    given = config("reward=python", reward__function="/old/r.py:score", task__path="/old/my.jsonl")
    assert absolute_paths(given, here) == {}
    assert absolute_paths(given, here, moved_from=Path("/old")) == {
        "task.path": f"{here}/my.jsonl", "reward.function": f"{here}/r.py:score",
    }  # fmt: skip
    there = config(task__path=str(here / "my.jsonl"))
    assert absolute_paths(there, here / "sub", moved_from=here) == {}  # it is still where it was


def test_the_saved_command_line_has_the_absolute_paths(here):
    odd = here / "läufe, (2)'s = #3"
    odd.mkdir()
    given = config(task__path="my.jsonl", model__path=odd.name)
    found = absolute_paths(given, here)
    assert set(path_keys(given)) == {"task.path", "model.path", "embed.model"}
    saved = with_overrides(["alpha=2", "++task.path='my.jsonl'", "~credit.gate", "run_dir=runs/a"], found)
    assert saved[:4] == ["alpha=2", f"++task.path={here}/my.jsonl", "~credit.gate", "run_dir=runs/a"]
    added = OverridesParser.create().parse_override(saved[4])  # it was in a file of the user's, not on the command line
    assert (added.key_or_group, added.value()) == ("model.path", str(odd))
    assert with_values(given, found).model["path"] == str(odd)


def test_which_keys_name_paths_and_when_a_reward_is_the_same_function():
    named = ("task.path", "task.eval_path", "credit.word_file", "task.data_dir", "reward.parts.a.function")
    assert all(map(names_path, named))
    assert not any(map(names_path, ("task.held_out", "task.answer_column", "embed.packaged", "loss.empathy")))
    assert has_moved("task.path", "my.jsonl", "/b/my.csv")
    assert has_moved("reward.function", "r.py:score", "/b/r.py:score")
    assert has_moved("reward.function", ["r.py:score", "mine.f"], ["/b/r.py:score", "mine.f"])
    assert not has_moved("reward.function", "r.py:score", "r.py:other")
    assert not has_moved("reward.function", "my_module.score", "my_module.other")
    assert not has_moved("reward.function", ["r.py:score"], ["r.py:score", "r.py:other"])
    assert not has_moved("task.eval_path", None, "my.jsonl")
    assert not has_moved("task.answer_column", "a", "b")
