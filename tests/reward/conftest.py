import pytest

from dqo.reward.python import Python
from tests.reward.tasks import PROMPTS, FixedPrompts


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """The test's working folder; ``my_module.py`` in it has the text of the test module's ``MODULE``."""
    (tmp_path / "my_module.py").write_text(request.module.MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def build(folder):
    """Builds Python rewards and closes them after the test."""
    built = []

    def build(function, prompts=PROMPTS, **changes) -> Python:
        settings = {
            "reward_weights": None, "correct_above": None, "timeout": 5.0, "start_timeout": 5.0, "on_error": "raise",
            "mask_truncated_completions": False, "memory_gb": 16.0,
        } | changes  # fmt: skip
        if isinstance(function, str) and not set(".:[") & set(function):
            function = f"my_module.{function}"
        built.append(Python(FixedPrompts(prompts=tuple(prompts)), function=function, **settings))
        return built[-1]

    yield build
    for reward in built:
        reward.close()
