"""Speed beside another process that keeps one core busy, over the speed alone.

    python scripts/bench_busy.py --json busy.json
    OMP_WAIT_POLICY=active OMP_NUM_THREADS=2 python scripts/bench_busy.py      # with OpenMP's default, spinning threads

Each setting is measured in a process of its own that has a worker's environment variables. Linux only: the other
process is pinned to a core.
"""

import os
import subprocess
import sys

import bench_step
import measuring
import torch

from dqo.progress import LoggedBar
from dqo.run.threads import environment
from dqo.run.warm_start import demonstrations_of, encoded, finetune

SETTINGS = {"warm start": "concepts", "concepts": "concepts", "cities": "cities"}
TARGET = 2.0  # times as long beside the other process, at most
WARM_STEPS = 30  # of the warm start, in a turn


class Side:
    """A setting in its own process."""

    def __init__(self, setting: str):
        command = [sys.executable, __file__, "--turns", setting]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env={**os.environ, **environment(1)}, **pipes)
        self._expect("ready")

    def turn(self) -> None:
        """Let the process work, and wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self._expect("done")

    def turn_beside_another(self) -> None:
        """The same, while a process that never waits is pinned to one of the cores."""
        core = max(os.sched_getaffinity(0))
        other = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
        with subprocess.Popen([sys.executable, "-c", other]) as spinning:
            try:
                self.turn()
            finally:
                spinning.kill()

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        if not any(line.strip() == word for line in self.process.stdout):  # libraries print too
            sys.exit(f"a side's process ended with exit code {self.process.wait()}")


def turns(setting: str) -> int:
    """The process of a ``Side``: works for each line on stdin."""
    ours = bench_step.Ours([*bench_step.SETTINGS[SETTINGS[setting]], "warm_start=false"])
    model, sft, call = ours.policy.model, ours.config.sft, ours.step
    if setting == "warm start":
        examples = encoded(demonstrations_of(ours.config, ours.task), model, ours.policy.tokenizer)

        def call() -> None:
            with LoggedBar(total=WARM_STEPS, desc="warm start", unit="steps") as bar:
                numbers = {"batch_size": sft.batch_size, "learning_rate": sft.learning_rate, "seed": sft.seed}
                finetune(model, examples, steps=WARM_STEPS, bar=bar, **numbers)

    print(f"{setting}: {torch.get_num_threads()} threads", file=sys.stderr)
    print("ready", flush=True)
    for _ in sys.stdin:
        call()
        print("done", flush=True)
    return 0


def main() -> int:
    """Exit code 0; measures and prints everything."""
    arguments = measuring.parser(__doc__, threads=torch.get_num_threads()).parse_args()
    machine, results = measuring.ready(arguments), {}
    for setting in SETTINGS:
        side = Side(setting)
        seconds = measuring.in_turn({"alone": side.turn, "beside": side.turn_beside_another}, rounds=arguments.rounds)
        side.process.communicate()
        medians = measuring.medians(seconds)
        ratio = medians["beside"] / medians["alone"]
        kept = "met" if ratio <= TARGET else "MISSED"
        print(
            f"{setting}: alone {medians['alone']:.2f} s  beside another process {medians['beside']:.2f} s  "
            f"{ratio:.2f}×, target ≤ {TARGET:g}×: {kept}",
            flush=True,
        )
        results[setting] = {"seconds": seconds, "medians": medians, "ratio": ratio}
    measuring.write(arguments.json, machine=machine, arguments=vars(arguments), settings=results)
    return 0


if __name__ == "__main__":
    sys.exit(turns(sys.argv[2]) if sys.argv[1:2] == ["--turns"] else main())
