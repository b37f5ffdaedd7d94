"""Every command in the documents and in --help composes and passes all checks before a worker would start."""

import importlib
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dqo.config import gpu
from dqo.run import launch
from tests.docs.markdown import DOCUMENTS, HELP_TEXTS, ROOT, blocks, spans
from tests.helpers.commands import type_in
from tests.helpers.report_folders import write_eval, write_run

SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
ARGUMENTS = r"((?: [^\s#]\S*)*)"  # they end where the line does, or where two spaces or a comment begin
COMMAND = re.compile(rf"(?:^|[ /])(dqo-(?!rl\b)[a-z]+)(?= |$){ARGUMENTS}")
LAUNCHED = re.compile(rf"(?:-m|--module) dqo\.cli ([a-z]+){ARGUMENTS}|scripts/(?:slurm|torchrun)\.sh{ARGUMENTS}")
SUBSTITUTES = {"=…": "=FOLDER", "/shared/run": "shared_run"}
LEFT_OUT = {"…", "..."}  # "and more arguments"
NOT_COMPOSED = {
    "dqo-train KEY=VALUE … GROUP=OPTION …": "the form of a command",
    "dqo-report": "the name of a command, which needs a run",
    "dqo-eval": "the name of a command, which needs a policy",
    "dqo-sample": "the name of a command, which needs a policy",
}
RUNS = ("runs/NAME", "RUN")  # runs that documents go on with


@dataclass(frozen=True, kw_only=True)
class Typed:
    """A command as a document has it. Example: command "dqo-train", arguments "task=gsm8k k=4"."""

    document: Path
    line: int
    command: str
    arguments: str

    def __str__(self) -> str:
        return f"{self.command} {self.arguments}".strip()

    def words(self) -> list[str]:
        text = self.arguments.partition(" < ")[0]
        for old, new in SUBSTITUTES.items():
            text = text.replace(old, new)
        return [word for word in shlex.split(text) if word not in LEFT_OUT]


def commands(document: Path) -> list[Typed]:
    """Those in code blocks, launchers' lines included, and in code spans."""
    joined = [(b.line, re.sub(r"\\\n\s*", " ", b.text)) for b in blocks(document)]
    lines = [(first + i, line) for first, text in joined for i, line in enumerate(text.splitlines())]
    return [
        Typed(document=document, line=number, command=command, arguments=arguments.strip())
        for number, line in lines + spans(document)
        for command, arguments in COMMAND.findall(line)
        + [(f"dqo-{name or 'train'}", own or scripts) for name, own, scripts in LAUNCHED.findall(line)]
    ]


ALL = [typed for document in [*DOCUMENTS, *HELP_TEXTS] for typed in commands(document)]
DIFFERENT = {str(typed): typed for typed in ALL if str(typed) not in NOT_COMPOSED}


def run(command: str, words: list[str], monkeypatch) -> int:
    """The exit code of a console script with these arguments."""
    module, _, function = SCRIPTS[command].partition(":")
    type_in(command, words, monkeypatch)
    with pytest.raises(SystemExit) as ended:
        getattr(importlib.import_module(module), function)()
    return int(ended.value.code or 0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty folder on a machine without a GPU, where no worker starts."""
    monkeypatch.setattr(launch, "_run", lambda *anything: 0)
    monkeypatch.setattr(gpu, "has_gpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    yield tmp_path
    sys.modules.pop("my_module", None)


def write_files(document: Path, folder: Path) -> None:
    """The blocks of a document that say which file they are."""
    for block in blocks(document):
        if block.path:
            (folder / block.path).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.path).write_text(block.text, "utf-8")


def marked(typed: Typed):
    """A sweep composes once per job."""
    return pytest.param(typed, marks=pytest.mark.slow) if "-m" in typed.words() else typed


@pytest.mark.parametrize(
    "typed",
    map(marked, DIFFERENT.values()),
    ids=lambda typed: f"{typed.document.relative_to(ROOT)}:{typed.line}",
)
def test_a_command_is_accepted(typed, machine, monkeypatch, capsys):
    write_files(typed.document, machine)
    words = typed.words()
    for name in RUNS:
        if any(re.search(rf"={name}(/|$)", word) for word in words):
            assert run("dqo-train", [f"run_dir={name}"], monkeypatch) == 0
    if "resume=runs/eval_NAME" in words:
        assert run("dqo-eval", ["smollm2", "run_dir=runs/eval_NAME"], monkeypatch) == 0
    if "resume=runs/rm" in words:
        assert run("dqo-rm", ["rm.path=pairs.jsonl", "run_dir=runs/rm"], monkeypatch) == 0
    if typed.command == "dqo-report":  # it has no worker: the folders are read
        for name in (word for word in words if "=" not in word):
            write_eval(Path(name)) if "eval" in name else write_run(Path(name))
    assert run(typed.command, words, monkeypatch) == 0, capsys.readouterr().err


OPTIONS = [
    (block, *Path(block.path).parts) for d in DOCUMENTS for block in blocks(d) if str(block.path).endswith("yaml")
]


@pytest.mark.parametrize(("block", "conf", "group", "file"), OPTIONS, ids=lambda value: getattr(value, "name", ""))
def test_an_option_in_yaml_is_accepted(block, conf, group, file, machine, monkeypatch, capsys):
    write_files(block.document, machine)
    words = ["--config-dir", conf, "task=jsonl", "task.path=my.jsonl", f"{group}={Path(file).stem}"]
    assert run("dqo-train", words, monkeypatch) == 0, capsys.readouterr().err


def test_commands_are_found_and_no_exception_is_left_over():
    assert {typed.command for typed in DIFFERENT.values()} == set(SCRIPTS)
    assert len(DIFFERENT) > 25
    assert set(NOT_COMPOSED) <= {str(typed) for typed in ALL}


def test_a_wrong_key_is_not_accepted(machine, monkeypatch):
    assert run("dqo-train", ["credti=dpp"], monkeypatch) == 2
    assert run("dqo-train", ["credit.kernle=rbf"], monkeypatch) == 2
