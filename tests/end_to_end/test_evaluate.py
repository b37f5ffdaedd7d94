"""dqo-eval as a process: stopped, killed, on two ranks."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import pytest

from dqo.files.answers_table import read, read_positions

pytestmark = pytest.mark.slow
EVAL = (
    "model=tiny", "task=concepts", "rollout=hf", "rollout.batch_rows=8", "n=8", "prompts=100", "embed=fake",
    "eval.metrics=[reward,pass,distinct_1]",
)  # fmt: skip


def stored(folder: Path) -> dict[tuple[str, int], tuple[str, ...]]:
    """The completions by policy and prompt; nothing is there twice, and nothing but parquet is left."""
    files = [path for path in (folder / "completions").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".parquet"}
    found = [((cell.policy, answers.prompt.position), answers.texts) for cell, answers in read(files)]
    assert len(dict(found)) == len(found)
    return dict(found)


def kept(folder: Path) -> set[int]:
    """Positions of the prompts in journals and parts. A resumed run turns the old journal into a part before it removes
    it, and for that moment they hold the same prompts."""
    found: set[int] = set()
    for journal in folder.glob("completions/*/journal_*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # it has become a part, which is read below
            lines = journal.read_bytes().splitlines(keepends=True)
            found |= {json.loads(line)["position"] for line in lines if line.endswith(b"\n")}
    return found.union(*map(read_positions, folder.glob("completions/*/part_*.parquet")))


def wait_for(process, folder: Path, prompts: int) -> None:
    """Until this many prompts are kept."""
    deadline = time.monotonic() + 120
    while len(kept(folder)) < prompts:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.01)


@pytest.fixture
def whole(dqo_here, tmp_path) -> dict[tuple[str, int], tuple[str, ...]]:
    """The completions of a run that nobody stopped."""
    text = dqo_here(*EVAL, "run_dir=whole", command="eval")
    assert "pass@1" in text and (tmp_path / "whole" / "eval.json").exists()
    return stored(tmp_path / "whole")


def test_killed_stopped_and_complete(dqo_here, start, whole, tmp_path):
    """SIGKILL, then SIGTERM, then to the end: what one run without a stop gives, and what to type each time."""
    run = tmp_path / "run"
    first = start(*EVAL, "run_dir=run", command="eval")
    wait_for(first, run, 3)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = len(kept(run))
    second = start("resume=run", command="eval")
    wait_for(second, run, before + 1)
    second.terminate()
    text = second.communicate(timeout=120)[0]
    assert second.returncode == 130
    assert text.strip().splitlines()[-1].endswith("stopped; finished prompts are kept; go on with dqo-eval resume=run")
    assert len(kept(run)) > before
    dqo_here("resume=run", command="eval")
    assert stored(run) == whole
    assert "run is complete" in dqo_here("resume=run", command="eval")


def test_two_ranks_sample_what_one_does_and_one_rank_goes_on_with_it(dqo, dqo_here, whole, tmp_path):
    dqo(*EVAL, "run_dir=two", "nproc=2", command="eval")
    assert stored(tmp_path / "two") == whole
    parts = sorted((tmp_path / "two").glob("completions/*/part_*"))
    assert [part.stem for part in parts] == ["part_000_00000", "part_001_00000"]
    parts[1].unlink()
    (tmp_path / "two" / "eval.json").unlink()
    dqo_here("resume=two", "nproc=1", command="eval")
    assert stored(tmp_path / "two") == whole
