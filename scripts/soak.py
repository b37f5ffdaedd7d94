"""A long run observed from outside, and a large file of prompts: the numbers of docs/reliability.md.

    python scripts/soak.py run [--steps 1000]        # do memory, open handles and time a step grow?
    python scripts/soak.py prompts [--count 100000]  # memory that a jsonl file of that many prompts needs

The run uses the model, credit=dpp, the task's reward and a reward function in its own process, which exits in every
fifth call and is restarted; it evaluates and writes checkpoints. At the end all completions are read back. Exit code 1:
a target was missed.
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
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice
from dqo.task.reading.settings import MessageRendering

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
GROWTH = 2.0  # percent, at most, from the window of steps after the warm-up to the last window
WARM_UP, WINDOW = 0.2, 0.2  # as shares of all steps
TIMES_THE_FILE = 4.0  # resident memory of the prompts over the size of their file, at most
READ_SECONDS = 5.0  # to read all completions of a run, at most


@dataclass(frozen=True, kw_only=True)
class Look:
    """One measurement of the run's processes."""

    step: int
    megabytes: float  # resident memory of the worker and its children
    handles: int  # of the worker
    processes: int
    cpu_seconds: float  # of the worker so far


def main() -> int:
    """Exit code: 0 if all targets are met, else 1."""
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
    """Train for ``steps`` and measure twice a second. Exit code: 0 if all targets are met, else 1."""
    (folder / "my_module.py").write_text(REWARD)
    command = [sys.executable, "-m", "dqo.cli", "train", *SETTINGS, f"steps={steps}", "run_dir=run",
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
        print(f"the run ended with exit code {launcher.returncode}")
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
    """A measurement; None before the first step, and when a process starts or ends meanwhile."""
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
    """Whether a target was missed; prints the numbers of the steps after the warm-up beside those of the last steps."""
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
        # the most frequent value: a file being written or a process being started is no leak
        "open handles": [statistics.mode(look.handles for look in within(w)) for w in (early, late)],
        "processes": [statistics.mode(look.processes for look in within(w)) for w in (early, late)],
        "CPU time a step, ms": [cpu(early), cpu(late)],
        "wall time a step, ms": [wall(early), wall(late)],
    }
    print(f"{'':<22}{f'steps {early[0]:.0f}-{early[1]:.0f}':>16}{f'{late[0]:.0f}-{late[1]:.0f}':>12}  growth")
    missed = False
    for name, (before, after) in numbers.items():
        growth = 100 * (after / before - 1)
        judged = not name.startswith("wall")  # wall time depends on what else runs on the machine
        missed |= judged and growth > GROWTH
        print(f"{name:<22}{before:>16.1f}{after:>12.1f}  {growth:+.1f} %{'' if judged else '  (not judged)'}")
    print(f"target: under {GROWTH:g} %: {'MISSED' if missed else 'met'}")
    return missed


def load_prompts(folder: Path, count: int) -> int:
    """Load a jsonl file of ``count`` prompts and measure the memory. Exit code: 0 if the target is met, else 1."""
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
        tokenizer, 1 << 20, rendering=MessageRendering(
            seed=0, max_completion_length=10, chat_template=False, chat_template_kwargs=None, date=None,
            merge_messages=False,
        ),
        fields=Fields(
            prompt_column="prompt", template=None, system_prompt=None, columns=None, answer_column=None,
            completion_column=None, tools_column=None,
        ),
        path=str(path), eval_path=None, format=None, choice=Choice(held_out=64, skip_long=False, streaming=False),
    )  # fmt: skip
    task.draw(count // 2, 8)
    seconds, peak = time.perf_counter() - start, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken, size = (peak - before) / 1e6, path.stat().st_size / 1e6
    times = taken / size
    print(
        f"{count} prompts, {size:.0f} MB: read in {seconds:.1f} s; peak memory {taken:.0f} MB, {times:.1f} × the file"
    )
    print(f"target: at most {TIMES_THE_FILE:g} × the file: {'met' if times <= TIMES_THE_FILE else 'MISSED'}")
    return int(times > TIMES_THE_FILE)


if __name__ == "__main__":
    sys.exit(main())
