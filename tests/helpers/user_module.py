"""A fixture for tests that run code of a user's module."""

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """The test's working folder; ``my_module.py`` in it has the text of the test module's ``MODULE``."""
    (tmp_path / "my_module.py").write_text(request.module.MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
