import sys

import pytest

SECRET = "correct-horse-battery-staple"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which the command is typed. The hub is out of reach, the environment holds a secret, and the module
    that a case imports is removed afterwards."""
    import datasets.config
    import huggingface_hub.constants

    for module in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("user_classes", None)
