"""Speed of the learner's update with shared prompts against the plain update and a bare loop, on SmolLM2-135M's shape.

    python scripts/bench_learner.py --threads 1 --json learner.json

The three take turns with the same batch, policy and optimizer; prints the medians of the rounds after a warm-up. The
weights are random: speed does not depend on them. Refuses to start on a busy machine.

    python scripts/bench_learner.py --tied --prompts 20 --prompt-length 20 --k 4

In place of these: updates in which 0, 50, 75 and 95 % of the groups have no advantage, and so no pass.
"""

import argparse
import sys

import measuring
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dqo.learner.torch_single import TorchSingle
from dqo.learner.update.forms import Form
from dqo.learner.update.packing import MicroBatch
from dqo.learner.update.rounding import Rounding
from dqo.learner.update.settings import LearnerSettings
from dqo.loss.clip import Clip, Level, LossType
from dqo.loss.correction.importance_sampling import Mode
from dqo.models.precision import Dtype
from dqo.optim.adamw import AdamW, Schedule
from dqo.records import Estimates, Experience, Prompt, Rewards, Rollouts, Targets

BARE_TARGET = 0.9  # share of the bare loop's speed, at least
TARGET = 3.0  # shared over plain, at least; in fp32 with 4 prompts of 40 tokens × 8 completions of 10 tokens
VOCABULARY = 49152


def main() -> int:
    """Exit code 0; measures and prints everything."""
    parser = measuring.parser(__doc__, threads=1)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-length", type=int, default=40)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--completion-length", type=int, default=10)
    parser.add_argument("--budget", type=int, default=1024, help="max_tokens_per_micro_batch")
    parser.add_argument("--compile", action="store_true", help="learner.compile=true")
    parser.add_argument("--bf16", action="store_true", help="autocast; else fp32")
    parser.add_argument("--tied", action="store_true", help="updates with groups that have no advantage")
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    if arguments.tied:
        seconds = measure_tied(arguments)
        whole = measuring.medians(seconds)["0"]
        for share, median in measuring.medians(seconds).items():
            print(f"{float(share):.0%} of the groups tied: {median:.2f} s, {median / whole:.2f} of a step without ties")
        measuring.write(arguments.json, machine=machine, arguments=vars(arguments), seconds=seconds)
        return 0
    seconds, reports = measure(arguments)
    medians = measuring.medians(seconds)
    ratio, share = medians["plain"] / medians["shared"], medians["bare"] / medians["shared"]
    lengths = (arguments.prompts, arguments.prompt_length, arguments.k, arguments.completion_length)
    target = TARGET if lengths == (4, 40, 8, 10) and not arguments.bf16 else None
    print(
        f"{lengths} {'bf16' if arguments.bf16 else 'fp32'}: " + "  ".join(f"{n} {t:.2f} s" for n, t in medians.items())
    )
    print(f"shared over plain {ratio:.2f}×{measuring.verdict(ratio, target)}")
    print(f"shared over a bare loop on its tokens {share:.2f}×{measuring.verdict(share, BARE_TARGET)}")
    norms = {form: report["grad_norm"] for form, report in reports.items()}
    peak = measuring.peak() / 1e9
    print(f"first gradient norms: shared {norms['shared']:.6g}, plain {norms['plain']:.6g}; peak memory {peak:.1f} GB")
    measuring.write(
        arguments.json, machine=machine, arguments=vars(arguments), seconds=seconds, ratio=ratio, share=share,
        norms=norms,
    )  # fmt: skip
    return 0


def measure(arguments: argparse.Namespace) -> tuple[dict[str, list[float]], dict]:
    """Seconds of each update by form (shared, plain, bare), and the last report of each form."""
    learner, (experience, targets) = smollm2_learner(arguments), batch(arguments)
    reports: dict[str, dict] = {}

    def update(form: str) -> None:
        learner.form = Form(form)
        reports[form] = dict(learner.update(experience, Estimates(), targets))

    packed = learner._micro_batches(experience.rollouts, list(range(len(experience.rollouts.texts))), arguments.budget)
    sides = {
        "shared": lambda: update("shared"), "plain": lambda: update("plain"),
        "bare": lambda: bare(learner, packed, targets),
    }  # fmt: skip
    return measuring.in_turn(sides, rounds=arguments.rounds), reports


def measure_tied(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of an update by the share of groups without an advantage."""
    learner, (experience, targets) = smollm2_learner(arguments), batch(arguments)

    def update(share: float) -> None:
        rows = round(share * arguments.prompts) * arguments.k
        advantages_BT = targets.advantages_BT.clone()
        advantages_BT[:rows] = 0.0
        report = learner.update(experience, Estimates(), Targets(advantages_BT=advantages_BT))
        assert report["update/skipped_rows"] == rows

    sides = {f"{share:g}": lambda share=share: update(share) for share in (0, 0.5, 0.75, 0.95)}
    return measuring.in_turn(sides, rounds=arguments.rounds)


def bare(learner: TorchSingle, packed: list[MicroBatch], targets: Targets) -> None:
    """Update on the same tokens with a minimal loop: forward, cross entropy, backward, clip, AdamW; no checks, no
    report."""
    for batch in packed:
        columns = batch.sources_N.unique()
        with torch.autocast("cpu", torch.bfloat16, enabled=learner.bf16):
            logits_RUV = learner.policy(
                input_ids=batch.tokens_RL, attention_mask=batch.mask, position_ids=batch.positions_RL,
                logits_to_keep=columns, use_cache=False, shared_prompt=batch.shared_prompt,
            ).logits  # fmt: skip
        logits_NV = logits_RUV[batch.sequences_N, torch.searchsorted(columns, batch.sources_N)].float()
        losses_N = torch.nn.functional.cross_entropy(logits_NV, batch.targets_N, reduction="none")
        (losses_N * targets.advantages_BT[batch.rows_N, batch.columns_N]).mean().backward()
    torch.nn.utils.clip_grad_norm_(learner.policy.parameters(), 1.0)
    (optimizer,) = learner.optimizers.values()
    optimizer.step()
    optimizer.zero_grad()


def smollm2_learner(arguments: argparse.Namespace) -> TorchSingle:
    """A learner with a randomly initialised model of SmolLM2-135M's shape."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    loss, optim = parts(arguments)
    policy = LlamaForCausalLM(config).eval()
    return TorchSingle(
        policy, torch.device("cpu"), loss, optim, needs_reference=False, settings=learner_settings(arguments)
    )


def learner_settings(arguments: argparse.Namespace) -> LearnerSettings:
    """Shared prompts, no LoRA, no gradient checkpointing."""
    return LearnerSettings(
        temperature=1.0, num_iterations=1, num_mini_batches=1, max_tokens_per_micro_batch=arguments.budget,
        shared_prompt=True, gradient_checkpointing=False, compile=arguments.compile,
        dtype=Dtype.BFLOAT16 if arguments.bf16 else Dtype.FLOAT32, rounding=Rounding.DITHERED,
        lora_r=None, lora_alpha=32, lora_dropout=0.0, lora_target_modules=None,
    )  # fmt: skip


def parts(arguments: argparse.Namespace) -> tuple[Clip, AdamW]:
    """Loss and optimizer; the learning rate is 0, so that the weights do not change."""
    loss = Clip(
        loss_type=LossType.dapo, importance_sampling_level=Level.token, epsilon=0.2, epsilon_high=None, delta=None,
        beta=0.0, use_bias_correction_kl=True, max_completion_length=arguments.completion_length,
        importance_sampling_mode=Mode.none, importance_sampling_clip_max=3.0, importance_sampling_clip_min=None,
    )  # fmt: skip
    optim = AdamW(
        learning_rate=0.0, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
        lr_scheduler_type=Schedule.constant, warmup_steps=0, steps=1,
    )  # fmt: skip
    return loss, optim


def batch(arguments: argparse.Namespace) -> tuple[Experience, Targets]:
    """A batch of random tokens and advantages; all completions have the same length."""
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
