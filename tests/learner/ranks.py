"""Trains the ZeRO learner on one rank or several and writes the results that ``test_deepspeed_zero`` compares:
``python -m tests.learner.ranks OUT``, under torchrun's environment variables. DeepSpeed is kept out of pytest's
process."""

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from dqo import distributed
from dqo.batching import join, split
from dqo.errors import StageError
from dqo.learner.deepspeed_zero import DeepSpeedZero
from dqo.learner.update.base import Base
from dqo.learner.update.preparing import base_model
from dqo.learner.update.rounding import Rounding
from dqo.learner.update.settings import LearnerSettings
from dqo.loss.clip import Clip
from dqo.loss.terms.entropy import Entropy, Tokens
from dqo.models.precision import Dtype
from dqo.records import Estimates, Experience
from dqo.run.workers import launched
from dqo.stages import Critic
from tests.factories import make_experience, tiny_llama
from tests.learner.builders import (
    CPU,
    Exemplars,
    Plain,
    adamw,
    clip,
    exemplars,
    head_critic,
    model_critic,
    run_out_of_memory,
    targets_of,
)

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
    "stage 0 bfloat16": {"stage": 0, "dtype": Dtype.BFLOAT16},
    "stage 1 bfloat16": {"stage": 1, "dtype": Dtype.BFLOAT16},
    "stage 2 bfloat16": {"stage": 2, "dtype": Dtype.BFLOAT16},
    "stage 3 bfloat16": {"stage": 3, "dtype": Dtype.BFLOAT16},
    "stage 2 bfloat16 lora": {"stage": 2, "dtype": Dtype.BFLOAT16, "lora_r": 4},
}
CASES |= {
    "stage 0 critic": {"stage": 0, "critic": "model"},
    "stage 1 critic head": {"stage": 1, "critic": "head"},
    "stage 1 critic": {"stage": 1, "critic": "model"},
    "stage 2 critic offloaded": {"stage": 2, "critic": "model", "offload_optimizer": True},
    "stage 3 critic": {"stage": 3, "critic": "model"},
    "stage 3 critic lora": {"stage": 3, "critic": "model", "lora_r": 4},
    "stage 3 critic head": {"stage": 3, "critic": "head"},
    "stage 2 critic bfloat16": {"stage": 2, "critic": "model", "dtype": Dtype.BFLOAT16},
}
BFLOAT16 = [name for name, settings in CASES.items() if settings.get("dtype") is Dtype.BFLOAT16]
TWENTY = [name for name in BFLOAT16 if "critic" not in name]  # cases that also take twenty steps
SMALL_RATE = 1e-5  # with which bfloat16, rounded to nearest, sees 3 % of an update


def critic_of(policy: LlamaForCausalLM, kind: str | None) -> Critic | None:
    """After a step in which it alone learns."""
    if kind is None:
        return None
    return model_critic(policy, warmup=1) if kind == "model" else head_critic(policy)


def make(*, beta: float = 0.1, optim=None, critic: str | None = None, **settings) -> DeepSpeedZero:
    torch.manual_seed(7)  # of new adapters
    own = {"stage", "offload_optimizer", "offload_param"}
    defaults = {
        "temperature": 1.0, "num_iterations": 2, "num_mini_batches": 1, "max_tokens_per_micro_batch": 40,
        "shared_prompt": True, "gradient_checkpointing": False, "compile": False, "dtype": Dtype.FLOAT32,
        "rounding": Rounding.DITHERED,
        "lora_r": None, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": None,
    }  # fmt: skip
    shared = defaults | {key: value for key, value in settings.items() if key not in own}
    engine = {"offload_optimizer": False, "offload_param": False} | {k: v for k, v in settings.items() if k in own}
    loss, shared = clip(beta=beta), LearnerSettings(**shared)
    optim, policy = optim or adamw(), grid_llama()
    return DeepSpeedZero(
        policy, CPU, loss, optim, loss.needs_reference, critic_of(policy, critic), settings=shared, **engine
    )


def grid_llama() -> LlamaForCausalLM:
    """A model as hubs store them: every weight is a bfloat16 number."""
    model = tiny_llama()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


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


def learn(learner: Base, step: int) -> dict[str, float]:
    experience = mine(experience_of(step))
    return learn_from(learner, experience)


def learn_from(learner: Base, experience: Experience) -> dict[str, float]:
    """The report of a step. Returns for a critic are advantages on its own values."""
    estimates, targets = learner.estimate(experience.rollouts), targets_of(experience)
    if estimates.values_BT is not None:
        targets = replace(targets, returns_BT=estimates.values_BT + targets.advantages_BT)
    return dict(learner.update(experience, estimates, targets))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # ZeRO-3 and a pass out of memory collect garbage, .8 s with all that the imports made
    if launched():
        distributed.init()
    for name, settings in CASES.items():
        learner = make(**settings)
        reports = [learn(learner, step) for step in range(STEPS)]
        weights = {name: tensor.clone() for name, tensor in learner.weights()}
        critic = {name: tensor.clone() for name, tensor in learner._parameters("critic")} if "critic" in name else {}
        scores = learner.score(mine(experience_of(0)).rollouts)
        folder = out / name
        folder.mkdir(exist_ok=True)
        distributed.barrier()
        learner.save(folder)
        resumed = make(**settings)
        resumed.load(folder)
        report = learn(resumed, STEPS)  # both must continue alike
        result = {
            "weights": weights, "critic": critic, "reports": reports, "scores": distributed.all_gather(scores),
            "next": learn(learner, STEPS), "resumed": report, "version": resumed.version,
        }  # fmt: skip
        if distributed.is_rank_0():
            torch.save(result, out / f"{name}.pt")
        if name in TWENTY:
            torch.save(twenty_steps(make(optim=adamw(learning_rate=SMALL_RATE), **settings)), out / f"{name} 20.pt")
    for case in (not_finite, critic_not_finite, tied_rows, nothing_but_ties, out_of_memory):
        outcomes = {stage: case(stage=stage) for stage in range(4)}
        if distributed.is_rank_0():
            (out / f"{case.__name__}.json").write_text(json.dumps(outcomes))
    moved = {stage: with_terms(make(stage=stage, beta=0.0, num_iterations=1, optim=Plain())) for stage in range(4)}
    if distributed.is_rank_0():
        torch.save(moved, out / "terms.pt")


def with_terms(learner: Base) -> tuple[torch.Tensor, dict[str, float]]:
    """The weights' change in a step with an entropy bonus on the tokens with most entropy and completions of others on
    the last rank, and what was reported. Two ranks make different numbers of micro-batches."""
    is_last = distributed.rank() == distributed.world_size() - 1
    bonus = Entropy(coefficient=0.3, tokens=Tokens.top, top_entropy_quantile=0.3)
    learner.loss = clip(terms={"bonus": bonus, "own": Exemplars(exemplars(k=4) if is_last else None)})
    report = learn(learner, 0)
    return change(learner), {key: report[key] for key in ("loss", "supervised/nll", "entropy_bonus/tokens", "entropy")}


def twenty_steps(learner: Base) -> dict[str, Any]:
    """The exact weights after twenty steps on one batch, those that are computed with, and the shares seen."""
    seen = [learn(learner, 0)["update/seen"] for _ in range(20)]
    with learner.rounded_steps.exact():
        exact = {name: tensor.detach().clone() for name, tensor in learner._parameters("policy")}
    return {"exact": exact, "computing": {name: tensor.clone() for name, tensor in learner.weights()}, "seen": seen}


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


def critic_not_finite(*, stage: int) -> str:
    """The same where the critic's gradient alone is infinite: the policy must not move either."""
    learner = make(stage=stage, critic="model")
    learn(learner, 0)
    before = trained(learner)
    layer = base_model(learner.called["critic"]).model.layers[0]
    layer.register_forward_hook(lambda _, inputs, hidden: overflowing(hidden) if torch.is_grad_enabled() else None)
    try:
        learn(learner, 1)
    except StageError as error:
        same = all(torch.equal(before[name], tensor) for name, tensor in trained(learner).items())
        return f"{error.message} | weights {'stayed' if same else 'moved'}"
    return "nothing was said"


def overflowing(hidden: torch.Tensor) -> None:
    """Makes the gradient of these infinite."""
    hidden.register_hook(lambda gradient: gradient * torch.inf)


def trained(learner: Base) -> dict[str, torch.Tensor]:
    """Copies of what is trained, of all models."""
    return {f"{name} {key}": tensor.clone() for name in learner.models for key, tensor in learner._parameters(name)}


def tied_rows(*, stage: int) -> tuple[float, float]:
    """(difference of a step that leaves rows without an advantage out from one that does not, number of these rows)."""
    experience = mine(experience_of(0))
    targets = targets_of(experience)
    last_B = torch.tensor([row // 4 == 2 - 2 * distributed.rank() for row in range(len(experience.rollouts.texts))])
    tied = replace(targets, advantages_BT=targets.advantages_BT.masked_fill(last_B[:, None], 0.0))
    moved, skipped = [], 0.0
    for says in (True, False):
        learner = make(stage=stage, beta=0.0, num_iterations=1, optim=Plain())
        learner.loss = learner.loss if says else SaysNothing(learner.loss)
        skipped += learner.update(experience, Estimates(), tied)["update/skipped_rows"]
        moved.append(change(learner))
    return difference(*moved), skipped


def nothing_but_ties(*, stage: int) -> tuple[float, float, float]:
    """The same for a second step without any advantage, which momentum alone makes; and how far it goes."""
    experience = mine(experience_of(0))
    targets = targets_of(experience)
    moved, skipped, first = [], 0.0, torch.zeros(())
    for says in (True, False):
        learner = make(stage=stage, beta=0.0, num_iterations=1)
        learner.loss = learner.loss if says else SaysNothing(learner.loss)
        learner.update(experience, Estimates(), targets)
        first = change(learner)
        report = learner.update(experience, Estimates(), replace(targets, advantages_BT=targets.advantages_BT * 0))
        skipped += report["update/skipped_rows"]
        moved.append(change(learner))
    return difference(*moved), skipped, difference(first, moved[1])


def out_of_memory(*, stage: int) -> dict[str, tuple[float, float, float] | str]:
    """(difference of a step with a pass that runs out of memory from one without, the same after a second step, how
    often it was out of memory), or the error."""
    plans = {"first backward": {"backward": True}, "forward": {"at": 2}, "backward": {"at": 2, "backward": True}}
    plans |= {"critic's backward": {"at": 2, "backward": True}}
    expected, results = {}, {}
    for name, plan in plans.items():
        critic = "model" if "critic" in name else None
        how = {"stage": stage, "beta": 0.0, "num_iterations": 1, "optim": Plain(), "critic": critic}
        expected = two_steps(make(**how))
        learner = make(**how)
        run_out_of_memory(base_model(learner.called["critic" if critic else "policy"]).model.layers[0], **plan)
        try:
            (one, two), failures = two_steps(learner)
            results[name] = (difference(one, expected[0][0]), difference(two, expected[0][1]), failures)
        except StageError as error:
            results[name] = error.message
    return results


def two_steps(learner: DeepSpeedZero) -> tuple[list[torch.Tensor], float]:
    """The weights' change after one step and after two small ones; how often passes ran out of memory."""
    changes, failures = [], 0.0
    for step in range(2):
        failures += learn(learner, step)["update/out_of_memory"]
        changes.append(change(learner))
    return changes, failures


def change(learner: Base) -> torch.Tensor:
    """Of all weights since the start, one vector."""
    start = {"policy": tiny_llama().state_dict()}
    weights = [("policy", *item) for item in learner.weights()]
    if "critic" in learner.called:
        start["critic"] = model_critic(grid_llama()).module().state_dict()
        weights += [("critic", *item) for item in learner._parameters("critic")]
    return torch.cat([(tensor.detach().float() - start[model][name]).flatten() for model, name, tensor in weights])


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


class SaysNothing(Clip):
    """A loss that does not say that rows without an advantage add nothing."""

    def __init__(self, same: Clip):
        vars(self).update(vars(same))

    def __call__(self, inputs):
        return super().__call__(inputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
