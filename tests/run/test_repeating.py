"""Which errors come again when a run is resumed, and whether one has."""

import sys

import pytest

from dqo.errors import ConfigError, ServiceError, StageError
from dqo.run.repeating import AGAIN, COMES_AGAIN, is_again, keep, kept, may_pass
from dqo.sandbox.sandbox import Kind, SandboxError
from dqo.services import Refused
from tests.helpers.commands import run_in_process
from tests.helpers.composing import SMALL


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: an illegal memory access"),
        StageError("run_dir", "runs/a was removed, moved or replaced during the run"),
        ServiceError("eval.judge", "evaluating: it does not answer"),
        Refused("reward", "HTTP 401"),
        caused(StageError("reward", "slow"), SandboxError(Kind.TIMEOUT, "no answer within 5 seconds")),
        caused(
            StageError("reward", "again", step=3), caused(StageError("reward", "x"), SandboxError(Kind.EXIT, "SIGKILL"))
        ),
    ],
    ids=repr,
)
def test_what_may_be_gone_the_next_time(error):
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("late"),
        StageError("reward", "column answer: there is no answer in 'Paris' that can be read", positions=[9]),
        caused(StageError("reward", "x"), SandboxError(Kind.EXCEPTION, "ValueError: no reward", raised="ValueError")),
        StageError("learner", "the loss is not finite"),
        NotImplementedError("a user's class"),
    ],
    ids=repr,
)
def test_what_comes_again(error):
    assert not may_pass(error)


def test_the_same_end_after_the_same_checkpoint_is_recognised(tmp_path):
    assert not is_again(kept(tmp_path), tmp_path, "Traceback …\nValueError: a")
    keep(tmp_path, "Traceback …\nValueError: a\n")
    before = kept(tmp_path)
    assert is_again(before, tmp_path, "another traceback\nValueError: a")
    assert not is_again(before, tmp_path, "Traceback …\nValueError: b")
    (tmp_path / "checkpoints" / "step_00002").mkdir(parents=True)
    assert not is_again(before, tmp_path, "Traceback …\nValueError: a")


LATE = """
class Late:
    uses_embeddings = False
    calls = 0

    def assign(self, rollouts, rewards, embeddings_PKD):
        self.calls += 1
        if self.calls > 4:  # of two groups a step
            raise ValueError("no credit for this prompt")
        return 0 * rewards.total_PK
"""


def test_a_crash_that_comes_again_does_not_say_go_on(tmp_path, monkeypatch, capsys):
    """A user types what was printed, and the run ends in the same way."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "late_credit.py").write_text(LATE)
    (tmp_path / "mine" / "credit").mkdir(parents=True)
    (tmp_path / "mine" / "credit" / "late.yaml").write_text("_target_: late_credit.Late\n")
    keys = [key for key in SMALL if not key.startswith(("credit", "steps"))]
    typed = [*keys, "--config-dir=mine", "credit=late", "steps=9", "checkpoint.every=2", "log.tensorboard=false"]
    assert run_in_process("train", typed, monkeypatch) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"; the checkpoint after step 2 is kept; {COMES_AGAIN}")
    sys.modules["late_credit"].Late.calls = 4  # at once, after the checkpoint
    assert run_in_process("train", ["resume=run"], monkeypatch) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(f"; the checkpoint after step 2 is kept; {AGAIN}; {COMES_AGAIN}") and "go on with" not in last
