"""The scheduler of ``scripts/reproduce.py``: runs as processes of one thread. It imports no torch."""

import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from reproduce_jobs import CPU, Job

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class Scheduler:
    """Runs jobs, at most ``slots`` at a time, in the order given. A job that fails stops no other. No job is started
    that would not end by ``deadline``, and none is killed."""

    slots: int
    deadline: float  # of time.monotonic()
    seconds: float | None = None  # of a run, before one has ended; None: what its job expects
    extra: Sequence[str] = ()  # overrides of every run
    failed: list[Job] = field(default_factory=list)
    skipped: list[Job] = field(default_factory=list)  # there was no time left for them
    _seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # measured, by table
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, jobs: Sequence[Job], what: str) -> None:
        """Runs the jobs that are not done. Where this process is interrupted, the runs are told to stop, too."""
        missing = [job for job in jobs if not job.is_done]
        print(f"{what}: {len(jobs) - len(missing)} of {len(jobs)} runs are done", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(self.slots) as pool:
            try:
                for _ in pool.map(lambda pair: self._one(*pair, of=len(missing)), enumerate(missing, 1)):
                    pass
            except BaseException:
                self._stopped.set()
                with self._lock:
                    for process in self._running:
                        process.terminate()
                raise

    def _one(self, number: int, job: Job, of: int) -> None:
        if self._stopped.is_set():
            return
        if time.monotonic() + self._expected(job) > self.deadline:
            self.skipped.append(job)
            return
        start = time.monotonic()
        code, last = self._process(job)
        seconds = time.monotonic() - start
        name = f"[{number}/{of}] {job.table}: {job.name}, seed {job.seed} ({job.folder.name})"
        if code == 0 and job.is_done:
            if job.trains:
                self._seconds[job.table].append(seconds)
            print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
        elif not self._stopped.is_set():
            self.failed.append(job)
            print(f"{name}: FAILED, exit code {code}: {last}", file=sys.stderr, flush=True)

    def _process(self, job: Job) -> tuple[int, str]:
        """Exit code and last line of ``dqo-train``, whose output goes to a file beside the run's folder."""
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        log = job.folder.parent / f"{job.folder.name}.log"
        command = [sys.executable, *job.program, *job.arguments, *(self.extra if job.trains else ())]
        environment = {**os.environ, **ENVIRONMENT}
        with log.open("ab") as file:  # a session of its own: Ctrl-C reaches the run once, through this process
            process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
            with self._lock:
                self._running.add(process)
            _, status, used = os.wait4(process.pid, 0)
            code = process.returncode = os.waitstatus_to_exitcode(status)
            with self._lock:
                self._running.remove(process)
        if job.trains:
            with job.folder.with_name(f"{job.folder.name}{CPU}").open("a") as file:
                file.write(f"{used.ru_utime + used.ru_stime}\n")
        lines = log.read_text(errors="replace").strip().splitlines()
        return code, lines[-1] if lines else ""

    def _expected(self, job: Job) -> float:
        """Seconds that a run of this table takes: the median of the finished ones, before that ``seconds``."""
        measured = self._seconds[job.table] if job.trains else []
        return statistics.median(measured) if measured else self.seconds or job.seconds
