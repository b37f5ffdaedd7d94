"""Finding a user's reward function: files, modules, and what is said where neither is right."""

import sys
from pathlib import Path

import pytest

from dqo.errors import ConfigError
from dqo.reward.sandbox.call_function import load, score

FILES = {
    "pkg/__init__.py": "",
    "pkg/utils.py": "def one(n): return [1.0] * n\n",
    "pkg/rel.py": "from .utils import one\ndef score(completions): return one(len(completions))\n",
    "pkg/sub/deep.py": "from ..utils import one\ndef score(completions): return one(len(completions))\n",
    "rel.py": "from .helpers import one\ndef score(completions): return one(len(completions))\n",
    "my-rewards/siblings.py": "import near\ndef score(completions): return near.one(len(completions))\n",
    "my-rewards/near.py": "def one(n): return [1.0] * n\n",
    "rewards/by_module.py": "import beside\ndef score(completions): return []\n",
    "rewards/beside.py": "",
    "colorsys.py": "def score(completions): return [1.0] * len(completions)\n",
    "kinds.py": """
import functools
class Score:
    def __init__(self, value=1.0): self.value = value
    def __call__(self, completions): return [self.value] * len(completions)
    def method(self, completions): return [self.value] * len(completions)
    @staticmethod
    def static(completions): return [3.0] * len(completions)
instance = Score(2.0)
by_lambda = lambda completions: [1.0 for _ in completions]
partial = functools.partial(lambda completions, value: [value] * len(completions), value=4.0)
async def coroutine(completions): return [5.0] * len(completions)
""",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files, in which the process of a reward function runs."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = {*sys.modules}
    load.cache_clear()
    yield tmp_path
    load.cache_clear()
    for name in {*sys.modules} - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pkg.rel.score", 1.0),
        ("pkg.sub.deep.score", 1.0),
        ("pkg.rel:score", 1.0),
        ("my-rewards/siblings.py:score", 1.0),
        ("colorsys.py:score", 1.0),
        ("kinds.py:instance", 2.0),
        ("kinds.py:instance.method", 2.0),
        ("kinds.py:Score.static", 3.0),
        ("kinds.py:by_lambda", 1.0),
        ("kinds.py:partial", 4.0),
        ("kinds.coroutine", 5.0),
    ],
)
def test_what_can_be_called_is_found(here, path, value):
    assert score(path, {"completions": ["a", "b"]}, 2) == [value, value]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("pkg/rel.py:score", "relative imports do not work; type reward.function=pkg.rel.score"),
        ("pkg/sub/deep.py:score", "relative imports do not work; type reward.function=pkg.sub.deep.score"),
        ("rel.py:score", "write from utils import x in place of from .utils import x"),
        (
            "rewards.by_module.score",
            "imports beside, which is beside it .* type reward.function=rewards/by_module.py:score",
        ),
        ("colorsys.score", "it is not your colorsys.py, .* type reward.function=colorsys.py:score"),
        ("my-rewards/siblings.score", "there is no module .*; type reward.function=my-rewards/siblings.py:score"),
        ("my-rewards/siblings.py", "there is no module .*; type reward.function=my-rewards/siblings.py:FUNCTION"),
        ("pkg.rel", "has no function rel, but a module of this name: type reward.function=pkg.rel.score"),
        ("kinds.py:Score", "is a class, a function is needed; .*type reward.function=kinds.py:my_score"),
        ("kinds.py:scor", "has no function scor; did you mean"),
        ("kinds.py:instance.methd", "has no function instance.methd"),
        ("~/nowhere/f.py:score", f"there is no file {Path.home()}/nowhere/f.py"),
        ("my-rewards:score", "there is no file"),
    ],
)
def test_what_cannot_says_what_to_type(here, path, says):
    with pytest.raises(ConfigError, match=says):
        load(path)
