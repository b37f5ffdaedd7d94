"""pyproject.toml and CITATION.cff say what the package needs and is."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import dqo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
OUR_EXTRA = re.compile(r"dqo-rl\[([\w,-]+)\]")
USED_BY_OTHERS = {"train": {"tensorboard"}, "rm": {"accelerate"}}  # by torch and transformers


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it: "PyYAML" and "pyyaml", "hydra_core" and "hydra-core" are one."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(requirements: list[str]) -> set[str]:
    """Names in requirements, those of the extras that they name included."""
    found = set()
    for text in requirements:
        if ours := OUR_EXTRA.match(text):
            found |= distributions([more for extra in ours[1].split(",") for more in EXTRAS[extra]])
        else:
            found.add(normal(re.match(r"[\w.-]+", text)[0]))
    return found


def third_party_imports(*folders: str) -> dict[str, str]:
    """Top-level modules that are neither the standard library's nor in this repository, each with a file's name."""
    found = {}
    for file in [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            found |= {name.partition(".")[0]: str(file.relative_to(ROOT)) for name in names}
    ours = {"dqo", "tests", *(file.stem for file in (ROOT / "scripts").glob("*.py"))}
    return {name: file for name, file in found.items() if name not in ours | sys.stdlib_module_names}


def undeclared(imports: dict[str, str], declared: set[str]) -> dict[str, str]:
    """Those of ``imports`` that no declared distribution brings."""
    installed = importlib.metadata.packages_distributions()
    brought_by = {name: {normal(each) for each in installed.get(name, [name])} for name in imports}
    return {name: file for name, file in imports.items() if not brought_by[name] & declared}


def test_everything_the_package_imports_is_declared():
    declared = distributions([*PROJECT["dependencies"], *EXTRAS["train"]])
    others = ("vllm", "vllm-cpu", "deepspeed", "eval", "report", "rm", "serve", "reasoning", "modebench")
    imports = third_party_imports("dqo")
    assert undeclared(imports, declared | distributions([each for extra in others for each in EXTRAS[extra]])) == {}
    optional = {
        "vllm",
        "deepspeed",
        "scipy",
        "passk_inference",
        "altair",
        "vl_convert",
        "markupsafe",
        "fastapi",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "reasoning_gym",
        "modebench",
    }
    assert set(undeclared(imports, declared)) == optional, "what training does not need is an extra of its own"


def test_everything_tests_and_scripts_import_is_declared():
    everything = distributions([*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)])
    assert undeclared(third_party_imports("tests", "scripts"), everything) == {}


def test_a_missing_declaration_is_seen():
    declared = distributions([*PROJECT["dependencies"], *EXTRAS["train"]])
    missing = undeclared(third_party_imports("dqo"), declared - {"pyyaml", "hydra-core"})
    assert {"yaml", "hydra"} <= set(missing)


def test_nothing_is_declared_without_use():
    imports = third_party_imports("dqo")
    installed = importlib.metadata.packages_distributions()
    used = {normal(each) for name in imports for each in installed.get(name, [name])}
    for extra in ("train", "eval", "report", "rm", "serve", "reasoning", "modebench"):
        unused = distributions(EXTRAS[extra]) - used
        assert unused == USED_BY_OTHERS["train"] | USED_BY_OTHERS.get(extra, set()), extra


def test_the_library_alone_needs_torch():
    assert distributions(PROJECT["dependencies"]) == set(third_party_imports("dqo/dpp")) == {"torch"}


@pytest.mark.parametrize("extra", sorted({*EXTRAS} - {"train"}))
def test_an_extra_brings_the_toolkit(extra):
    assert distributions(EXTRAS["train"]) <= distributions(EXTRAS[extra])


def test_types_are_shipped():
    assert (ROOT / "dqo" / "py.typed").exists() and "Typing :: Typed" in PROJECT["classifiers"]


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == dqo.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
