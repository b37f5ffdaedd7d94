"""`import dqo.dpp` needs torch and nothing else."""

import subprocess
import sys

import pytest

# torch imports numpy if it is installed, which would hide an import by dqo.dpp: here numpy cannot be imported
PROBE = """
import sys
sys.modules["numpy"] = None
import torch
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""


def loaded_by(module: str) -> list[str]:
    """Top-level packages outside the standard library that importing a module loads on top of torch."""
    probe = [sys.executable, "-c", PROBE.format(module=module)]
    return subprocess.run(probe, capture_output=True, text=True, check=True).stdout.split()


def test_the_library_imports_torch_and_nothing_else():
    assert loaded_by("dqo.dpp") == ["dqo"]


def test_the_probe_detects_other_imports(tmp_path, monkeypatch):
    (tmp_path / "heavy.py").write_text("")
    (tmp_path / "planted.py").write_text("import heavy, dqo.dpp")
    (tmp_path / "planted_numpy.py").write_text("import numpy, dqo.dpp")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert loaded_by("planted") == ["dqo", "heavy", "planted"]
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by("planted_numpy")
