"""What docs/reliability.md promises under "Security". Refused secrets, code and pickles are cases of test_campaign."""

import ast
import os
import stat
import subprocess
import sys

import pytest
import transformers.dynamic_module_utils

from dqo.cli.report import LONGEST, one_line
from dqo.models.folders import save_policy
from tests.bad_input.conftest import SECRET
from tests.bad_input.data import JSONL
from tests.bad_input.harness import ROOT, Case, in_process
from tests.bad_input.models import edit
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.steps import HOSTILE

SOURCES = sorted([*(ROOT / "dqo").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "torch.save", "numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle"}
MODELS = ("AutoModel", "AutoModelForCausalLM", "PreTrainedModel", "type(model)")


def calls(source: str):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def faults(source: str) -> list[str]:
    """Where a source pickles, runs text as code, trusts third-party code or reads weights in any format."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.partition(".")[0] in PICKLING]
    for call in calls(source):
        name, keys = ast.unparse(call.func), {each.arg: ast.unparse(each.value) for each in call.keywords}
        if name in LOADERS | {"eval", "exec"} or "allow_pickle" in keys:
            found.append(name)
        if keys.get("trust_remote_code") not in (None, "self._trust", "False"):
            found.append(name)
        reads = name == "SentenceTransformer" or name in {f"{model}.from_pretrained" for model in MODELS}
        if reads and not {"use_safetensors", "gguf_file", "model_kwargs"} & keys.keys():
            found.append(name)
    return found


def test_no_source_pickles_or_trusts_code():
    assert {str(path): found for path in SOURCES if (found := faults(path.read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "torch.load(x)", "np.load(x, allow_pickle=True)", "eval(x)",
        "AutoModelForCausalLM.from_pretrained(x)", "AutoConfig.from_pretrained(x, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_faults_are_found(source):
    assert faults(source)


WATCHED = """
import sys

unpickled = []
sys.addaudithook(lambda event, args: unpickled.append(args) if event == "pickle.find_class" else None)

from tests.bad_input.harness import Case, in_process


class Patch:
    setattr = staticmethod(setattr)


typed = "model=hf model.path=model rollout=hf beta=0.1 checkpoint.every=1 log.tensorboard=true"
assert in_process(Case(typed=typed, says=()), Patch) == 0
print("UNPICKLED", unpickled)

import pickle

pickle.loads(pickle.dumps(Case))
print("THE HOOK SEES", [name for _, name in unpickled])
"""


@pytest.mark.slow
def test_a_whole_run_unpickles_nothing(tmp_path):
    """Python raises an audit event for each class that is unpickled."""
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "model")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "UNPICKLED []" in done.stdout, done.stdout + done.stderr
    assert "THE HOOK SEES ['Case']" in done.stdout


OWN = """
from pathlib import Path
from transformers import LlamaConfig
Path("ran").touch()
class Config(LlamaConfig):
    model_type = "own"
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_a_models_code_runs_only_with_trust_remote_code(trusted, here, monkeypatch, capsys):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(here / "modules"))
    save_policy(tiny_llama(), word_tokenizer(), here / "model")
    (here / "model" / "own.py").write_text(OWN)
    edit(here / "model" / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    typed = f"model=hf model.path=model dry_run=true model.trust_remote_code={str(trusted).lower()}"
    in_process(Case(typed=typed, says=()), monkeypatch)
    assert (here / "ran").exists() == trusted, capsys.readouterr().err


@pytest.mark.slow
def test_a_run_writes_only_into_its_folder_and_respects_the_umask(tmp_path):
    """And its files hold no secret of the environment, with every tracker on."""
    umask = 0o027
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "DQO_"))}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    environment |= {"HF_TOKEN": SECRET, "TMPDIR": str(tmp_path / "tmp"), "WANDB_API_KEY": f"{SECRET}{SECRET}"}
    (tmp_path / "tmp").mkdir()
    case = Case(
        typed="task=concepts rollout=hf warm_start=true sft.steps=2 checkpoint.every=1",
        more=("log.tensorboard=true", "log.wandb=true"),
        says=(),
    )
    done = subprocess.run(
        [sys.executable, "-m", "dqo.cli", "train", *case.arguments],
        cwd=work, env=environment, capture_output=True, text=True, preexec_fn=lambda: os.umask(umask),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in work.iterdir()} == {"run"}
    files = [path for path in (work / "run").rglob("*") if path.is_file()]
    assert {"config.yaml", "metrics.jsonl", "model.safetensors", "summary.json"} <= {path.name for path in files}
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert {str(path) for path, mode in modes.items() if mode & umask} == set()
    assert {str(path) for path, mode in modes.items() if mode != 0o666 & ~umask} == set()
    assert {str(path) for path in files if SECRET.encode() in path.read_bytes()} == set()
    assert SECRET not in done.stdout + done.stderr
    left = {str(path.relative_to(home).parts[:2]) for path in home.rglob("*") if path.is_file()}
    assert left <= {"('.cache', 'dqo')", "('.cache', 'matplotlib')", "('.cache', 'huggingface')", "('.cache', 'wandb')"}


def test_a_dry_run_escapes_control_characters_of_a_prompt(here, monkeypatch, capsys):
    (here / "model.txt").write_text("")
    save_policy(tiny_llama(), word_tokenizer([f"{HOSTILE.split()[0]}", *[f"w{n}" for n in range(59)]]), here / "model")
    lines = ['{"prompt": "Paris\\u001b[2J \\u202e w1", "answer": "a"}', '{"prompt": "w1", "answer": "b"}']
    (here / "my.jsonl").write_text("\n".join(lines))
    typed = f"{JSONL} task.path=my.jsonl model=hf model.path=model dry_run=true seed=%d"
    shown = ""
    for seed in (0, 1):
        assert in_process(Case(typed=typed % seed, says=()), monkeypatch) == 0
        shown += capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown


def test_a_message_is_one_line_without_control_characters():
    assert (
        one_line("my.jsonl: there is no\n\x1b[31mfield\a \u202e") == r"my.jsonl: there is no \x1b[31mfield\x07 \u202e"
    )
    long = one_line("x" * 10_000 + "; type task.path=FILE")
    assert len(long) < LONGEST + 10 and long.endswith("; type task.path=FILE")
