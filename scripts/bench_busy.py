"""Speed beside another process that keeps one core busy, over the speed alone.

    python scripts/bench_busy.py --json busy.json
    OMP_WAIT_POLICY=active OMP_NUM_THREADS=2 python scripts/bench_busy.py      # with OpenMP's default, spinning threads

Each setting is measured in a process of its own that has a worker's environment variables. Linux only: the other
process is pinned to a core.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import bench_step
import measuring
import torch

from dqo.progress import LoggedBar
from dqo.run.threads import environment
from dqo.run.warm_start import demonstrations_of, encoded, finetune

SETTINGS = {"warm start": "concepts", "concepts": "concepts", "cities": "cities"}
TARGET = 2.0  # times as long beside the other process, at most
WARM_STEPS = 30  # of the warm start, in a turn


def beside_another(turn: Callable[[], object]) -> None:
    """Call ``turn`` while a process that never waits is pinned to one of the cores."""
    core = max(os.sched_getaffinity(0))
    other = f"import os\nos.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", other]) as spinning:
        try:
            turn()
        finally:
            spinning.kill()


def turns(setting: str) -> int:
    """The process of a side: works in this setting."""
    ours = bench_step.Ours([*bench_step.SETTINGS[SETTINGS[setting]], "warm_start=false"])
    model, sft, call = ours.policy.model, ours.config.sft, ours.step
    if setting == "warm start":
        examples = encoded(demonstrations_of(ours.config, ours.task), model, ours.policy.tokenizer)

        def call() -> None:
            with LoggedBar(total=WARM_STEPS, desc="warm start", unit="steps") as bar:
                numbers = {"batch_size": sft.batch_size, "learning_rate": sft.learning_rate, "seed": sft.seed}
                finetune(model, examples, steps=WARM_STEPS, bar=bar, **numbers)

    print(f"{setting}: {torch.get_num_threads()} threads", file=sys.stderr)
    return measuring.take_turns(call)


def main() -> int:
    """Exit code 0; measures and prints everything."""
    arguments = measuring.parser(__doc__, threads=torch.get_num_threads()).parse_args()
    machine, results = measuring.ready(arguments), {}
    for setting in SETTINGS:
        side = measuring.Side([sys.executable, __file__, "--turns", setting], environment(1))
        ways = {"alone": side.turn, "beside": partial(beside_another, side.turn)}
        seconds = measuring.in_turn(ways, rounds=arguments.rounds)
        side.close()
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
