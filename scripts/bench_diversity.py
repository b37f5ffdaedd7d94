"""Cost of diversity: the time of a step at alpha = 1 over a step at alpha = 0, and how a step's time grows.

    python scripts/bench_diversity.py --json diversity.json

First the two sides take turns on the cities prompts (SmolLM2, MiniLM; completions are new, so no embedding is
cached). Each side has its own process, as in real runs: in one shared process one of them is up to 10 % slower, and not
always the same one. Then single steps are timed with more completions a prompt, more prompts and longer completions.
"""

import json
import operator
import statistics
import subprocess
import sys

import bench_step
import measuring

TARGET = 1.10  # time at alpha = 1 / time at alpha = 0, at most
SIDES = {"dqo": ["alpha=1"], "grpo": ["alpha=0", "credit=none"]}
GROWTH = {
    "k": [f"k={k}" for k in (4, 16, 64)],
    "prompts": [f"prompts_per_step={prompts}" for prompts in (2, 8, 32)],
    "completion length": [f"max_completion_length={length}" for length in (12, 48, 192)],
}
BASE = ["task=cities", "alpha=1", "k=4", "prompts_per_step=2", "max_completion_length=12"]


def main() -> int:
    """Exit code 0; measures and prints everything."""
    if sys.argv[1:2] == ["--one"]:
        return one(sys.argv[2:])
    if sys.argv[1:2] == ["--turns"]:
        return training_steps(sys.argv[2:])
    parser = measuring.parser(__doc__, threads=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=measuring.dtypes()[-1])
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    still = "learning_rate=1e-12"  # the policy stays the same on both sides, and so do the lengths
    dtypes = [f"learner.dtype={arguments.dtype}", f"rollout.dtype={arguments.dtype}", still]
    turns = [sys.executable, __file__, "--turns", str(arguments.threads), *bench_step.SETTINGS["cities"], *dtypes]
    sides = {name: measuring.Side([*turns, *overrides]) for name, overrides in SIDES.items()}
    seconds = measuring.in_turn({name: side.turn for name, side in sides.items()}, rounds=arguments.rounds)
    for side in sides.values():
        side.close()
    ratio = statistics.median(map(operator.truediv, seconds["dqo"], seconds["grpo"]))
    met = "met" if ratio <= TARGET else "MISSED"
    both = "  ".join(f"{name} {median:.2f} s" for name, median in measuring.medians(seconds).items())
    print(f"{both}  {ratio:.2f}× in the median round, target ≤ {TARGET:.2f}×: {met}", flush=True)
    growth = {}
    for what, settings in GROWTH.items():
        for setting in settings:
            command = [sys.executable, __file__, "--one", str(arguments.threads), *BASE, *dtypes, setting]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            growth[setting] = json.loads(done.stdout.splitlines()[-1])
            row = growth[setting]
            stages = "  ".join(f"{name} {taken:.2f}" for name, taken in row["stages"].items())
            print(f"{what}: {setting}: {row['step']:.1f} s ({stages}), peak {row['peak_gb']:.1f} GB", flush=True)
    measuring.write(
        arguments.json, machine=machine, arguments=vars(arguments), seconds=seconds, ratio=ratio, growth=growth
    )
    return 0


def training_steps(arguments: list[str]) -> int:
    """The process of a side: takes training steps."""
    bench_step.torch.set_num_threads(int(arguments[0]))
    return measuring.take_turns(bench_step.Ours(arguments[1:]).step)


def one(arguments: list[str]) -> int:
    """The process of a single measurement: takes two steps and prints the second one's times as JSON."""
    bench_step.torch.set_num_threads(int(arguments[0]))
    ours = bench_step.Ours(arguments[1:])
    ours.step()
    ours.step()
    seconds = ours.steps[-1].seconds
    judged = max(seconds.get(stage, 0.0) for stage in ("rollout", "reward", "embed"))
    step = judged + sum(seconds.get(stage, 0.0) for stage in ("credit", "learner", "sync"))
    print(json.dumps({"step": step, "stages": seconds, "peak_gb": measuring.peak() / 1e9}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
