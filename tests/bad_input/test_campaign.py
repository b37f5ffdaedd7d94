"""Bad input: one line that says what is wrong and what to type, exit code 2, within seconds, nothing written.

Every case of the tables runs in this process, through the function that the command calls; cases marked ``process``
also run as a separate process, as a user starts them.
"""

import resource
import subprocess
import sys

import pytest

from tests.bad_input.algorithms import ALGORITHMS
from tests.bad_input.conftest import SECRET
from tests.bad_input.credentials import SECRETS
from tests.bad_input.data import DATA
from tests.bad_input.harness import IMPORTS, Case, as_process, in_process, tree
from tests.bad_input.keys import KEYS
from tests.bad_input.models import MODELS
from tests.bad_input.places import PLACES
from tests.bad_input.rewards import REWARDS
from tests.bad_input.services import SERVICES
from tests.bad_input.serving import SERVING
from tests.bad_input.streams import STREAMS
from tests.bad_input.tasks import TASKS
from tests.bad_input.yaml_files import YAML, mine

CASES = [*ALGORITHMS, *KEYS, *YAML, *DATA, *STREAMS, *TASKS, *MODELS, *PLACES, *REWARDS, *SERVICES, *SERVING, *SECRETS]


def name(case: Case) -> str:
    return f"{case.command} {case.says[0]}"[:60]


def test_number_of_cases():
    assert len(CASES) >= 60
    assert 8 <= sum(case.process for case in CASES) <= 20


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=name)
def test_one_line_exit_2_nothing_written(case, here, monkeypatch, capsys):
    case.write(here)
    before = tree(here)
    code = in_process(case, monkeypatch)
    said = capsys.readouterr()
    told = [line for line in said.err.splitlines() if line.startswith(f"dqo-{case.command}: ")]
    assert len(told) == 1, said.err
    for part in case.says:
        assert part in told[0]
    assert code == 2
    assert "Traceback" not in said.err
    assert SECRET not in said.err + said.out
    assert tree(here) == before


def test_an_error_in_a_users_class_shows_its_traceback(here, monkeypatch, capsys):
    case = mine("_target_: user_classes.Credit\nscale: 1\n")
    case.write(here)
    assert in_process(case, monkeypatch) == 1
    *shown, last = capsys.readouterr().err.splitlines()
    assert "Traceback (most recent call last):" in shown and "raise NotImplementedError" in shown[-2]
    assert last.startswith("dqo-train: NotImplementedError: ") and last.endswith("mend what it names first")
    assert "NotImplementedError" in (here / "run" / "error.txt").read_text()


def seconds_of_children() -> float:
    """CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="session")
def an_import() -> float:
    """CPU seconds that this machine takes to import transformers."""
    start = seconds_of_children()
    subprocess.run([sys.executable, "-c", "from transformers import AutoModelForCausalLM"], check=True)
    return seconds_of_children() - start


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.process], ids=name)
def test_as_a_process(case, an_import, tmp_path, monkeypatch):
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    case.write(tmp_path)
    before, start = tree(tmp_path), seconds_of_children()
    done = as_process(case, tmp_path)
    assert seconds_of_children() - start < IMPORTS * an_import
    told = [line for line in done.stderr.splitlines() if not line.startswith(("INFO: ", "WARNING: "))]
    assert len(told) == 1, done.stderr
    for part in case.says:
        assert part in told[0]
    assert done.returncode == 2
    assert SECRET not in done.stderr + done.stdout
    assert tree(tmp_path) == before
