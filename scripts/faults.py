"""The fault campaign: short runs are killed with SIGKILL at random moments, resumed to the end, and compared with the
same run without a kill.

    python scripts/faults.py [--kills 100] [--seed 0] [--steps 18]

Half of the kills come at a moment drawn uniformly from a run's wall time, half while a checkpoint, an export, an
evaluation or another file is being written. Most kill launcher and worker together, like a power cut, some only the
launcher or only the worker. A run is killed several times. Linux only: it looks for orphans in /proc.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "model=tiny", "task=concepts", "credit=dpp", "sft.steps=30", "embed=fake", "prompts_per_step=2", "k=4",
    "eval.prompts=2",
    "eval.n=4", "eval.every=4", "log.live=false",
    "max_completion_length=12", "reward=check_and_python", "reward.parts.style.on_error=mask",
)  # fmt: skip
KEPT = 2  # checkpoints of a run that is killed
# A run whose launcher alone is killed saves one more checkpoint before it ends. So the run without a kill keeps that of
# every step, for whichever the other run has at its end.
CHECKPOINTS = {
    "whole": ("checkpoint.every=1", "checkpoint.keep_every=1"),
    "victim": ("checkpoint.every=3", f"checkpoint.keep_last={KEPT}"),
}
ADAPTERS = ("learner.lora_r=4", "learner.lora_dropout=0.1")  # in every second run
REWARD = """
def score(completions, **columns):
    lengths = [len(text.split()) for text in completions]
    return [length / 12 for length in lengths] if sum(lengths) % 4 else 1 / 0
"""
TIMED = ("seconds/", "tokens_per_second", "step_time")
KILLS_PER_RUN = 8  # at most
GRACE = 60.0  # seconds that a worker has to end after its launcher was killed: it saves a checkpoint first
MARK = "DQO_FAULTS"  # an environment variable that all processes of the campaign inherit


@dataclass(frozen=True)
class Aim:
    """A moment to kill at: as soon as ``seen`` is true for the run folder."""

    name: str
    seen: Callable[[Path], bool]


AIMS = (
    Aim("checkpoint", lambda run: any(run.glob("checkpoints/.*"))),
    Aim("evaluation", lambda run: _last_line(run).startswith("evaluating")),
    Aim("step", lambda run: any(run.glob("completions/.new-*"))),
    Aim("export", lambda run: any(run.glob(".*-policy"))),
    Aim("end", lambda run: _last_line(run).startswith("writing policy")),
)


@dataclass
class Tally:
    """The counts of a campaign."""

    kills: Counter[str] = field(default_factory=Counter)  # by moment
    killed: Counter[str] = field(default_factory=Counter)  # by process
    steps_differing: int = 0  # in metrics.jsonl (without times) or in their completions
    prompts_lost: int = 0
    prompts_replayed: int = 0
    files_differing: int = 0
    orphans: int = 0
    failed: int = 0  # runs that ended with an error


class Campaign:
    """Kills and resumes runs in ``folder``; all random choices come from ``seed``."""

    def __init__(self, folder: Path, *, seed: int, steps: int):
        self.folder, self.steps, self.seed = folder, steps, seed
        self.dice, self.tally = random.Random(seed), Tally()
        (folder / "faults_reward.py").write_text(REWARD)
        ours = {MARK: str(os.getpid()), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.environment = {**os.environ, **ours}

    def run(self, kills: int) -> Tally:
        """The counts after at least ``kills`` kills."""
        number = 0
        while self.tally.kills.total() < kills:
            whole, wall = self._uninterrupted(number % 2)
            victim = self.folder / f"victim_{number}"
            self._victim(victim, number % 2, wall, min(KILLS_PER_RUN, kills - self.tally.kills.total()))
            self._compare(whole, victim)
            print(
                f"run {number}: {self.tally.kills.total()} kills, {self.tally.steps_differing} steps differ", flush=True
            )
            number += 1
        return self.tally

    def _uninterrupted(self, kind: int) -> tuple[Path, float]:
        """A run without a kill and its wall time in seconds; made once for each kind (0: full weights, 1: LoRA)."""
        folder = self.folder / f"whole_{kind}"
        start = time.monotonic()
        if not (folder / "summary.json").exists():
            self._finish(self._start(folder, *self._arguments(kind), *CHECKPOINTS["whole"]), folder)
            (folder / "wall").write_text(str(time.monotonic() - start))
        return folder, float((folder / "wall").read_text())

    def _arguments(self, kind: int) -> tuple[str, ...]:
        reward = f"reward.parts.style.function={self.folder / 'faults_reward.py'}:score"
        return (*SETTINGS, reward, f"steps={self.steps}", f"seed={self.seed}", *(ADAPTERS if kind else ()))

    def _victim(self, folder: Path, kind: int, wall: float, kills: int) -> None:
        arguments = (*self._arguments(kind), *CHECKPOINTS["victim"])
        for _ in range(kills):
            launcher = self._start(folder, *arguments)
            moment = self._wait_for_moment(folder, launcher, wall)
            if moment is None:  # it ended before
                self._finish(launcher, folder)
                return
            self._kill(launcher, moment)
            if (folder / "config.yaml").exists():
                arguments = (f"resume={folder}",)
        self._finish(self._start(folder, *arguments), folder)

    def _start(self, folder: Path, *arguments: str) -> subprocess.Popen:
        place = (f"run_dir={folder}",) if not arguments[0].startswith("resume=") else ()
        with _log(folder).open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dqo.cli", "train", *arguments, *place],
                env=self.environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def _wait_for_moment(self, folder: Path, launcher: subprocess.Popen, wall: float) -> str | None:
        """The name of the moment, returned when the run has reached it; None if the run ended before."""
        aim = self.dice.choice(AIMS) if self.dice.random() < 0.5 else None
        at, sights, late = self.dice.uniform(0, wall), self.dice.randint(1, 3), self.dice.uniform(0, 0.05)
        start, before = time.monotonic(), False
        while launcher.poll() is None:
            time.sleep(0.0005)
            if aim is None and time.monotonic() - start >= at:
                return _moment(folder)
            now = aim is not None and aim.seen(folder)
            sights -= now and not before
            before = now
            if aim is not None and now and (sights <= 0 or aim.name in ("export", "end")):  # these come once
                time.sleep(late)
                return aim.name
        return None

    def _kill(self, launcher: subprocess.Popen, moment: str) -> None:
        """Kill launcher, worker or both; count the processes that do not end."""
        target = self.dice.choices(["both", "launcher", "worker"], [3, 1, 1])[0]
        workers = [pid for pid in _marked(self.environment[MARK]) if b"dqo.cli.worker" in _read(pid, "cmdline")]
        with contextlib.suppress(ProcessLookupError):  # the process has just ended by itself
            if target == "worker" and workers:
                os.kill(workers[0], signal.SIGKILL)
            elif target == "launcher":
                os.kill(launcher.pid, signal.SIGKILL)
            else:
                os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait(GRACE)
        self.tally.kills[moment] += 1
        self.tally.killed[target] += 1
        deadline = time.monotonic() + (GRACE if target == "launcher" else 5.0)
        while (left := _marked(self.environment[MARK])) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.tally.orphans += len(left)
        for pid in left:
            os.kill(pid, signal.SIGKILL)

    def _finish(self, launcher: subprocess.Popen, folder: Path) -> None:
        if launcher.wait() != 0:
            self.tally.failed += 1
            print(_log(folder).read_text()[-2000:], flush=True)

    def _compare(self, whole: Path, victim: Path) -> None:
        tally, steps = self.tally, range(self.steps + 1)
        for of in (_lines, _completions):
            # compared as text: as numbers, NaN differs from NaN
            tally.steps_differing += sum(repr(of(whole, step)) != repr(of(victim, step)) for step in steps)
        drawn, again = (Counter(_positions(run, self.steps)) for run in (whole, victim))
        tally.prompts_lost += (drawn - again).total()
        tally.prompts_replayed += (again - drawn).total()
        files = _files(whole), _files(victim)
        exact = [path for path in files[0] & files[1] if path.suffix == ".safetensors" or path.name == "summary.json"]
        steps_kept = {path.parts[1] for path in files[1] if path.parts[0] == "checkpoints"}
        tally.files_differing += len(steps_kept) != KEPT
        gone = {path for path in files[0] if path.parts[0] == "checkpoints" and path.parts[1] not in steps_kept}
        tally.files_differing += len((files[0] - gone) ^ files[1]) + (f"step_{self.steps:05}" not in steps_kept)
        tally.files_differing += sum((whole / path).read_bytes() != (victim / path).read_bytes() for path in exact)


def _log(folder: Path) -> Path:
    return folder.with_suffix(".log")


def _files(run: Path) -> set[Path]:
    """Relative paths of a run's files, without this script's, and without TensorBoard's, which differ by process."""
    others = ("tensorboard", "wall", "error.txt")
    paths = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    return {path for path in paths if path.parts[0] not in others}


def _last_line(folder: Path) -> str:
    with _log(folder).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
        return (file.read().decode(errors="replace").splitlines() or [""])[-1]


def _moment(folder: Path) -> str:
    """The name of what the run is doing now, for a kill by the clock."""
    for aim in AIMS:
        if aim.seen(folder):
            return aim.name
    last = _last_line(folder)
    return "training" if last.startswith(("step", "eval step")) else "start-up"


def _marked(mark: str) -> list[int]:
    """The living processes that the campaign has started."""
    entry, processes = f"{MARK}={mark}".encode(), [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in processes if entry in _read(pid, "environ").split(b"\0")]


def _read(pid: int, name: str) -> bytes:
    """A file of a process in /proc; empty if the process has ended, zombies included."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _lines(run: Path, step: int) -> list[dict]:
    """The lines of a step in metrics.jsonl, without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if not any(word in key for word in TIMED)}
        for row in rows
        if row["step"] == step
    ]


def _completions(run: Path, step: int) -> list[dict] | None:
    file = run / "completions" / f"step_{step:05d}.parquet"
    return pq.read_table(file).to_pylist() if file.exists() else None


def _positions(run: Path, steps: int) -> list[int]:
    """Positions of all prompts in the order of training."""
    return [row["position"] for step in range(1, steps + 1) for row in _completions(run, step) or [] if row["i"] == 0]


def main() -> None:
    """Exits with 1 if anything was lost, repeated, different or left running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=18)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dqo-faults-") as folder:
        tally = Campaign(Path(folder), seed=options.seed, steps=options.steps).run(options.kills)
    print(f"killed: {', '.join(f'{name} {count}' for name, count in tally.killed.most_common())}")
    print(f"at: {', '.join(f'{name} {count}' for name, count in tally.kills.most_common())}")
    print(f"kills {tally.kills.total()} in {(time.monotonic() - start) / 60:.1f} minutes")
    targets = ("steps_differing", "prompts_lost", "prompts_replayed", "files_differing", "orphans", "failed")
    for name in targets:
        print(f"{name.replace('_', ' ')} {getattr(tally, name)}")
    sys.exit(any(getattr(tally, name) for name in targets))


if __name__ == "__main__":
    main()
