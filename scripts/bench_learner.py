"""The learner's update with shared prompts against the plain form, on a model of SmolLM2-135M's shape.

    python scripts/bench_learner.py --threads 1 --json learner.json

Both forms take turns on one batch, one policy and one optimizer; medians of rounds, after a warm-up. The weights are
random: speed does not depend on them. Refuses to start on a busy machine.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dqo.learner.torch_single import TorchSingle
from dqo.loss.clip import Clip, Level, LossType
from dqo.loss.mismatch import Mode
from dqo.models.precision import Dtype
from dqo.optim.adamw import AdamW, Schedule
from dqo.records import Estimates, Experience, Prompt, Rewards, Rollouts, Targets

TARGET = 3.0  # times faster, in fp32 at 4 prompts of 40 tokens × 8 completions of 10
VOCABULARY = 49152


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=40)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--completion-length", type=int, default=10)
    parser.add_argument("--budget", type=int, default=1024, help="max_tokens_per_micro_batch")
    parser.add_argument("--bf16", action="store_true", help="autocast; else fp32")
    parser.add_argument("--rounds", type=int, default=5, help="5 or more, after a warm-up")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--force", action="store_true", help="measure on a busy machine all the same")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error(f"--rounds {arguments.rounds}: 5 or more are needed for a median")
    torch.set_num_threads(arguments.threads)
    machine = {
        "busy_percent": psutil.cpu_percent(interval=2.0),  # of all cores
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    print("  ".join(f"{name}={value}" for name, value in machine.items()))
    if machine["busy_percent"] > 10 and not arguments.force:
        print(f"the machine is busy ({machine['busy_percent']:.0f} % of all cores): wait, or add --force")
        return 2
    seconds, reports = measure(arguments)
    ratio = seconds["plain"] / seconds["shared"]
    lengths = (arguments.prompts, arguments.prompt_length, arguments.k, arguments.completion_length)
    judged = lengths == (4, 40, 8, 10) and not arguments.bf16
    met = ratio >= TARGET or not judged
    verdict = f", target ≥ {TARGET:g}×: {'met' if met else 'MISSED'}" if judged else ""
    print(f"shared {seconds['shared']:.2f} s  plain {seconds['plain']:.2f} s  {ratio:.2f}× faster{verdict}")
    norms = {form: report["grad_norm"] for form, report in reports.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"first gradient norms: shared {norms['shared']:.6g}, plain {norms['plain']:.6g}; peak memory {peak:.1f} GB")
    if arguments.json:
        result = {"machine": machine, "arguments": vars(arguments), "seconds": seconds, "ratio": ratio, "norms": norms}
        Path(arguments.json).write_text(json.dumps(result, indent=1))
    return 0 if met else 1


def measure(arguments: argparse.Namespace) -> tuple[dict[str, float], dict]:
    """Median seconds by form, and each form's first report."""
    learner, (experience, targets) = smollm2_learner(arguments), batch(arguments)
    times: dict[str, list[float]] = {"shared": [], "plain": []}
    reports: dict[str, dict] = {}
    for form in times:  # warm-up, at a learning rate of 0: the weights stay as they are
        learner.shared_prompt = form == "shared"
        reports[form] = dict(learner.update(experience, Estimates(), targets))
    for _ in range(arguments.rounds):
        for form, taken in times.items():
            learner.shared_prompt = form == "shared"
            start = time.perf_counter()
            learner.update(experience, Estimates(), targets)
            taken.append(time.perf_counter() - start)
    return {form: statistics.median(taken) for form, taken in times.items()}, reports


def smollm2_learner(arguments: argparse.Namespace) -> TorchSingle:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    loss = Clip(
        loss_type=LossType.dapo, importance_sampling_level=Level.token, epsilon=0.2, epsilon_high=None, delta=None,
        beta=0.0, use_bias_correction_kl=True, max_completion_length=arguments.completion_length,
        importance_sampling_mode=Mode.none, importance_sampling_clip_max=3.0, importance_sampling_clip_min=None,
    )  # fmt: skip
    optim = AdamW(
        learning_rate=0.0, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
        lr_scheduler_type=Schedule.constant, warmup_steps=0, steps=1,
    )  # fmt: skip
    return TorchSingle(
        LlamaForCausalLM(config).eval(), torch.device("cpu"), loss, optim, temperature=1.0, num_iterations=1,
        max_tokens_per_micro_batch=arguments.budget, shared_prompt=True, gradient_checkpointing=False,
        dtype=Dtype.BFLOAT16 if arguments.bf16 else Dtype.FLOAT32,
        lora_r=None, lora_alpha=32, lora_dropout=0.0, lora_target_modules=None,
    )  # fmt: skip


def batch(arguments: argparse.Namespace) -> tuple[Experience, Targets]:
    """Random tokens and advantages, all completions of one length."""
    prompts, k = arguments.prompts, arguments.k
    length, rows = arguments.prompt_length + arguments.completion_length, prompts * k
    tokens_PT = torch.randint(VOCABULARY, (prompts, arguments.prompt_length))
    completions_BT = torch.randint(VOCABULARY, (rows, arguments.completion_length))
    sampled_BT = (torch.arange(length) >= arguments.prompt_length).expand(rows, -1).clone()
    rollouts = Rollouts(
        prompts=tuple(
            Prompt(position=p, tokens=tuple(tokens_PT[p].tolist()), content="", columns={}) for p in range(prompts)
        ),
        k=k,
        tokens_BT=torch.cat([tokens_PT.repeat_interleave(k, 0), completions_BT], dim=1),
        sampled_BT=sampled_BT,
        logprobs_BT=torch.zeros(rows, length),
        lengths_B=torch.full((rows,), length),
        finished_B=torch.ones(rows, dtype=torch.bool),
        versions_B=torch.full((rows,), 1 << 30),  # never stale
        texts=("",) * rows,
    )
    total_PK, valid_PK = torch.randn(prompts, k), torch.ones(prompts, k, dtype=torch.bool)
    experience = Experience(
        rollouts=rollouts,
        rewards=Rewards(total_PK=total_PK, parts={}, correct_PK=None, valid_PK=valid_PK),
        embeddings_PKD=None,
        credits_PK=torch.zeros(prompts, k),
    )
    return experience, Targets(advantages_BT=total_PK.reshape(-1, 1) * sampled_BT)


if __name__ == "__main__":
    sys.exit(main())
