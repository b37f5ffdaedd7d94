"""A long run of the sandbox watched from outside, and a large file of prompts: the figures of docs/reliability.md.

    python scripts/soak.py run [--steps 1000]        # memory, handles and time a step stay flat
    python scripts/soak.py prompts [--count 100000]  # memory that a jsonl file of that many prompts takes

The run samples with the model, credits by dpp, judges by the task and by a function in a process of its own, which
exits in every fifth call and is started again; it evaluates and writes checkpoints. At the end all completions are
read back. Exit code 1: a target was missed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dqo.task.jsonl import Jsonl

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "model=tiny", "task=concepts", "credit=dpp", "sft.steps=30", "embed=fake", "prompts_per_step=2", "k=4",
    "eval.prompts=2", "eval.n=4", "eval.every=50", "checkpoint.every=50", "max_completion_length=12", "log.every=100",
    "reward=check_and_python", "reward.parts.style.on_error=mask",
)  # fmt: skip
REWARD = """
import os
calls = 0
def score(completions, **columns):
    global calls
    calls += 1
    if calls % 5 == 0:
        os._exit(1)
    return [len(text) / 100 for text in completions]
"""
GROWTH = 2.0  # percent, from the steps after the warm-up to the last ones
WARM_UP, WINDOW = 0.2, 0.2  # shares of the steps
TIMES_THE_FILE = 4.0  # resident memory that its prompts take at most
READ_SECONDS = 5.0  # of all completions of a run


@dataclass(frozen=True, kw_only=True)
class Look:
    """The run at one moment."""

    step: int
    megabytes: float  # resident, of the worker and what it started
    handles: int  # of the worker
    processes: int
    cpu_seconds: float  # of the worker so far


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("run").add_argument("--steps", type=int, default=1000)
    what.add_parser("prompts").add_argument("--count", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"load={os.getloadavg()[0]:.1f} cores={os.cpu_count()}")
    with tempfile.TemporaryDirectory(prefix="dqo-soak-") as folder:
        if arguments.what == "run":
            return soak(Path(folder), arguments.steps)
        return load_prompts(Path(folder), arguments.count)


def soak(folder: Path, steps: int) -> int:
    (folder / "my_module.py").write_text(REWARD)
    command = [sys.executable, "-m", "dqo.cli.train", *SETTINGS, f"steps={steps}", "run_dir=run",
               "reward.parts.style.function=my_module.score"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"}
    launcher = psutil.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    metrics, looks = folder / "run" / "metrics.jsonl", []
    while launcher.poll() is None:
        look = look_at(launcher, metrics)
        if look and (not looks or look.step > looks[-1].step):
            looks.append(look)
        time.sleep(0.5)
    if launcher.returncode:
        print(f"the run ended with {launcher.returncode}")
        return 1
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = {row["step"]: row["step_time"] for row in rows if "step_time" in row}
    restarts = next(row["rewards/style/score/restarts"] for row in reversed(rows) if "step_time" in row)
    print(f"{steps} steps, {len(looks)} looks, {restarts:.0f} restarts of the reward's process")
    missed = report(looks, seconds, steps)
    start = time.perf_counter()
    count = pq.read_table(folder / "run" / "completions").num_rows
    spent = time.perf_counter() - start
    print(f"{count} completions of {steps} steps read back in {spent:.1f} s (target: {READ_SECONDS:g} s)")
    return int(missed or spent > READ_SECONDS)


def look_at(launcher: psutil.Process, metrics: Path) -> Look | None:
    """None before the first step, and while processes come or go."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 8192))
            step = json.loads(file.read().splitlines()[-1])["step"]
        family = launcher.children(recursive=True)
        worker = next(process for process in family if "dqo.cli.worker" in process.cmdline())
        times = worker.cpu_times()
        return Look(
            step=step,
            megabytes=sum(p.memory_info().rss for p in [worker, *worker.children(recursive=True)]) / 1e6,
            handles=worker.num_fds(),
            processes=len(family),
            cpu_seconds=times.user + times.system,
        )
    except (OSError, ValueError, IndexError, StopIteration, psutil.Error):
        return None


def report(looks: Sequence[Look], seconds: dict[int, float], steps: int) -> bool:
    """Typical numbers of the steps behind the warm-up beside those of the last steps; whether a target was missed."""
    early = (WARM_UP * steps, (WARM_UP + WINDOW) * steps)
    late = ((1 - WINDOW) * steps, steps)

    def within(window: tuple[float, float]) -> list[Look]:
        return [look for look in looks if window[0] < look.step <= window[1]]

    def cpu(window: tuple[float, float]) -> float:
        first, *_, last = within(window)
        return 1000 * (last.cpu_seconds - first.cpu_seconds) / (last.step - first.step)

    def wall(window: tuple[float, float]) -> float:
        return 1000 * statistics.median(s for step, s in seconds.items() if window[0] < step <= window[1])

    numbers = {
        "resident memory, MB": [statistics.median(look.megabytes for look in within(w)) for w in (early, late)],
        # the most frequent: a file being written or a process being started is no leak
        "open handles": [statistics.mode(look.handles for look in within(w)) for w in (early, late)],
        "processes": [statistics.mode(look.processes for look in within(w)) for w in (early, late)],
        "CPU time a step, ms": [cpu(early), cpu(late)],
        "wall time a step, ms": [wall(early), wall(late)],
    }
    print(f"{'':<22}{f'steps {early[0]:.0f}-{early[1]:.0f}':>16}{f'{late[0]:.0f}-{late[1]:.0f}':>12}  growth")
    missed = False
    for name, (before, after) in numbers.items():
        growth = 100 * (after / before - 1)
        judged = not name.startswith("wall")  # which is the machine's, if others work on it
        missed |= judged and growth > GROWTH
        print(f"{name:<22}{before:>16.1f}{after:>12.1f}  {growth:+.1f} %{'' if judged else '  (not judged)'}")
    print(f"target: under {GROWTH:g} %: {'MISSED' if missed else 'met'}")
    return missed


def load_prompts(folder: Path, count: int) -> int:
    path = folder / "prompts.jsonl"
    with path.open("w") as file:
        for i in range(count):
            text = " ".join(f"word{(i * 7 + j * j) % 1000}" for j in range(60))
            file.write(json.dumps({"prompt": f"{i} {text}", "answer": str(i), "level": i % 5}) + "\n")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    task = Jsonl(
        tokenizer, 1 << 20, seed=0, max_completion_length=10, chat_template=False, path=str(path), eval_path=None,
        held_out=64, prompt_column="prompt", template=None, system_prompt=None, columns=None, answer_column=None,
        completion_column=None, skip_long=False,
    )  # fmt: skip
    task.draw(count // 2, 8)
    seconds, peak = time.perf_counter() - start, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, size = (peak - before) / 1e6, path.stat().st_size / 1e6
    times = taken / size
    print(
        f"{count} prompts, {size:.0f} MB: read in {seconds:.1f} s; {taken:.0f} MB at the most, {times:.1f} × the file"
    )
    print(f"target: at most {TIMES_THE_FILE:g} × the file: {'met' if times <= TIMES_THE_FILE else 'MISSED'}")
    return int(times > TIMES_THE_FILE)


if __name__ == "__main__":
    sys.exit(main())
