"""Trains the ZeRO learner on one rank or several and writes the results that ``test_deepspeed_zero`` compares:
``python -m tests.learner.ranks OUT``, under torchrun's environment variables. DeepSpeed is kept out of pytest's
process."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from dqo import distributed
from dqo.batching import join, split
from dqo.errors import StageError
from dqo.learner.deepspeed_zero import DeepSpeedZero
from dqo.learner.update.settings import LearnerSettings
from dqo.models.precision import Dtype
from dqo.records import Experience
from dqo.run.workers import launched
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import CPU, adamw, clip, targets_of

STEPS = 5
CASES = {
    "stage 0": {"stage": 0},
    "stage 1": {"stage": 1},
    "stage 2": {"stage": 2},
    "stage 3": {"stage": 3},
    "stage 2 offloaded": {"stage": 2, "offload_optimizer": True},
    "stage 3 offloaded": {"stage": 3, "offload_optimizer": True, "offload_param": True, "gradient_checkpointing": True},
    "stage 3 lora": {"stage": 3, "lora_r": 4},
    "stage 2 lora dropout": {"stage": 2, "lora_r": 4, "lora_dropout": 0.1},
    "stage 3 lora dropout": {"stage": 3, "lora_r": 4, "lora_dropout": 0.1, "gradient_checkpointing": True},
    "stage 2 bfloat16": {"stage": 2, "dtype": Dtype.BFLOAT16},
}


def make(*, beta: float = 0.1, **settings) -> DeepSpeedZero:
    torch.manual_seed(7)  # of new adapters
    own = {"stage", "offload_optimizer", "offload_param"}
    defaults = {
        "temperature": 1.0, "num_iterations": 2, "max_tokens_per_micro_batch": 40, "shared_prompt": True,
        "gradient_checkpointing": False, "dtype": Dtype.FLOAT32, "lora_r": None, "lora_alpha": 32, "lora_dropout": 0.0,
        "lora_target_modules": None,
    }  # fmt: skip
    shared = defaults | {key: value for key, value in settings.items() if key not in own}
    engine = {"offload_optimizer": False, "offload_param": False} | {k: v for k, v in settings.items() if k in own}
    loss, shared = clip(beta=beta), LearnerSettings(**shared)
    return DeepSpeedZero(tiny_llama(), CPU, loss, adamw(), loss.needs_reference, settings=shared, **engine)


def experience_of(step: int) -> Experience:
    """The groups of all ranks. In step 2 every completion of the last group is invalid: one rank has an empty batch."""
    whole = make_experience(prompts=3, k=4, seed=step)
    if step != 2:
        return whole
    valid_PK = whole.rewards.valid_PK.clone()
    valid_PK[-1] = False
    return replace(whole, rewards=replace(whole.rewards, valid_PK=valid_PK))


def mine(whole: Experience) -> Experience:
    """This rank's groups: of two ranks, rank 0 has two groups and rank 1 has one."""
    groups = split(whole)
    return whole if distributed.world_size() == 1 else join(groups[:2] if distributed.is_rank_0() else groups[2:])


def learn(learner: DeepSpeedZero, step: int) -> dict[str, float]:
    experience = mine(experience_of(step))
    return dict(learner.update(experience, learner.estimate(experience.rollouts), targets_of(experience)))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    if launched():
        distributed.init()
    for name, settings in CASES.items():
        learner = make(**settings)
        reports = [learn(learner, step) for step in range(STEPS)]
        weights = {name: tensor.clone() for name, tensor in learner.weights()}
        scores = learner.score(mine(experience_of(0)).rollouts)
        folder = out / name
        folder.mkdir(exist_ok=True)
        distributed.barrier()
        learner.save(folder)
        resumed = make(**settings)
        resumed.load(folder)
        report = learn(resumed, STEPS)  # both must continue alike
        result = {
            "weights": weights, "reports": reports, "scores": distributed.all_gather(scores),
            "next": learn(learner, STEPS), "resumed": report, "version": resumed.version,
        }  # fmt: skip
        if distributed.is_rank_0():
            torch.save(result, out / f"{name}.pt")
    outcomes = {name: not_finite(stage=stage) for name, stage in (("0", 0), ("1", 1), ("2", 2), ("3", 3))}
    if distributed.is_rank_0():
        (out / "not_finite.json").write_text(json.dumps(outcomes))


def not_finite(*, stage: int) -> str:
    """The error message for an infinite gradient, and whether the weights changed."""
    learner = make(stage=stage, beta=0.0, num_iterations=1)
    before = {name: tensor.clone() for name, tensor in learner.weights()}
    experience = mine(make_experience(prompts=3, k=4, seed=0))
    targets = targets_of(experience)
    huge = replace(targets, advantages_BT=targets.advantages_BT * 3e38)
    try:
        learner.update(experience, learner.estimate(experience.rollouts), huge)
    except StageError as error:
        same = all(torch.equal(before[name], tensor) for name, tensor in learner.weights())
        return f"{error.message} | weights {'stayed' if same else 'moved'}"
    return "nothing was said"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
