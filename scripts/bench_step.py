"""Time of a whole training step against TRL's GRPOTrainer with the same model, prompts, k, length, reward and dtype.

    python scripts/bench_step.py cities --dtype bfloat16 --alpha 1 --json step.json

Both sides sample with transformers on this machine: TRL with ``model.generate``, dqo with rollout=hf. They take turns,
each on prompts that it has not seen. Before that, the gradients of both sides are compared for one batch with random
advantages. ``--alpha`` above 0 adds to dqo's side what TRL lacks: MiniLM's embeddings and the determinant credit.
"""

import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import datasets
import measuring
import torch
from hydra import compose, initialize_config_dir
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from dqo.batching import join
from dqo.config import conf_dir
from dqo.config.typed import check
from dqo.learner.torch_single import TorchSingle
from dqo.loop import train
from dqo.records import Estimates, Experience, Rewards, Step, Targets
from dqo.run.build import make_plan, make_stages
from dqo.run.load_policy import load_policy

SETTINGS = {
    "cities": ["task=cities", "prompts_per_step=4", "k=8"],
    "gsm8k": ["task=gsm8k", "model=smollm2", "prompts_per_step=4", "k=4", "max_completion_length=128"],
    "concepts": ["task=concepts", "prompts_per_step=8", "k=8"],
}
TARGETS = {"cities": 2.5, "gsm8k": 1.5, "concepts": 2.0}  # TRL's time over dqo's at alpha = 0, at least
TARGET_DIVERSE = 1.0  # the same at alpha > 0


class Ours:
    """dqo's side, one training step at a time."""

    def __init__(self, overrides: list[str]):
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            self.config = check(compose("train", ["rollout=hf", "learner=torch_single", *overrides]))
        torch.manual_seed(0)
        self.policy, self.task = load_policy(self.config)
        self.stages = make_stages(self.config, self.policy, self.task)
        self.plan, self.done, self.cursor = make_plan(self.config), 0, 0
        self.steps: list[Step] = []

    def step(self) -> None:
        """Take the next training step."""

        def observe(step: Step) -> None:
            self.cursor = step.cursor
            self.steps.append(step)

        train(self.stages, replace(self.plan, steps=self.done + 1), [observe], step=self.done, cursor=self.cursor)
        self.done += 1


def theirs(ours: Ours, folder: str, *, bf16: bool, rounds: int, callback: TrainerCallback) -> GRPOTrainer:
    """TRL's trainer with the same policy on the same stream of prompts."""
    config, task = ours.config, ours.task
    prompts, _ = task.draw(0, config.prompts_per_step * (rounds + 2))

    def reward(completions, completion_ids, position, **columns) -> list[float]:
        texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
        ended = [ids[-1] == ours.policy.tokenizer.eos_token_id for ids in completion_ids]
        return [task.check(prompts[p], text, done).reward for p, text, done in zip(position, texts, ended, strict=True)]

    chat = config.task.get("chat_template", False)
    rows = [
        {"prompt": [{"role": "user", "content": prompt.content}] if chat else prompt.content, "position": i}
        for i, prompt in enumerate(prompts)
    ]
    model, tokenizer = _fresh(config)
    arguments = GRPOConfig(
        output_dir=folder, per_device_train_batch_size=config.prompts_per_step * config.k, num_generations=config.k,
        max_completion_length=config.max_completion_length, temperature=config.temperature, beta=0.0,
        learning_rate=config.learning_rate, lr_scheduler_type="constant", max_steps=rounds + 1, loss_type="dapo",
        scale_rewards="none", shuffle_dataset=False, bf16=bf16, use_cpu=not torch.cuda.is_available(), report_to=[],
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, args=arguments, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[callback],
    )  # fmt: skip
    tokens, *_ = trainer._tokenize_prompts([row["prompt"] for row in rows])
    assert [tuple(ids) for ids in tokens] == [prompt.tokens for prompt in prompts], "the two sides' prompts differ"
    return trainer


def _fresh(config: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    policy, _ = load_policy(config)
    return policy.model, policy.tokenizer


class Turns(TrainerCallback):
    """Takes a step of dqo after each step of TRL, and measures the seconds of both."""

    def __init__(self, ours: Ours):
        self.ours, self.seconds = ours, {"trl": [], "dqo": []}

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """TRL's step starts."""
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """TRL's step has ended: take one of dqo."""
        middle = time.perf_counter()
        self.ours.step()
        self.seconds["trl"].append(middle - self.start)
        self.seconds["dqo"].append(time.perf_counter() - middle)


class Recorder:
    """An optimizer factory whose optimizer stores a step's gradient and does not change the weights."""

    max_grad_norm = None

    def make(self, parameters):
        """An optimizer that stores the gradients in ``self.gradients``, by parameter name."""
        named, self.gradients = {name: p for name, p in parameters if p.requires_grad}, {}
        gradients = self.gradients

        class Recording(torch.optim.SGD):
            def step(self, closure=None):
                gradients.update({name: p.grad.clone() for name, p in named.items()})

        return Recording(named.values(), lr=1.0)

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return 0.0


def gradient_difference(ours: Ours, trainer: GRPOTrainer) -> float:
    """‖dqo's − TRL's‖ / ‖TRL's‖ of the gradient of one batch with random advantages."""
    prompts, _ = ours.task.draw(0, ours.config.prompts_per_step)
    rollouts = join(list(ours.stages.rollout.generate(prompts, k=ours.config.k, seed=1)))
    advantages_B = torch.randn(len(rollouts.texts), generator=torch.Generator().manual_seed(0))
    shape = (len(rollouts.prompts), rollouts.k)
    experience = Experience(
        rollouts=rollouts, embeddings_PKD=None, credits_PK=torch.zeros(shape),
        rewards=Rewards(
            total_PK=torch.zeros(shape), parts={}, correct_PK=None, valid_PK=torch.ones(shape, dtype=torch.bool)
        ),
    )  # fmt: skip
    recorder, own = Recorder(), ours.stages.learner
    learner = TorchSingle(
        ours.policy.model, ours.policy.device, own.loss, recorder, needs_reference=False, settings=own.settings
    )
    learner.update(experience, Estimates(), Targets(advantages_BT=advantages_B[:, None] * rollouts.sampled_BT))

    rows = range(len(rollouts.texts))
    prompt_ids = [torch.tensor(rollouts.prompts[b // rollouts.k].tokens) for b in rows]
    completions = [rollouts.tokens_BT[b][rollouts.sampled_BT[b]] for b in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    inputs = {
        "prompt_ids": pad(prompt_ids, batch_first=True, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(ids) for ids in prompt_ids], batch_first=True, padding_side="left"),
        "completion_ids": pad(completions, batch_first=True),
        "completion_mask": pad([torch.ones_like(ids) for ids in completions], batch_first=True),
        "advantages": advantages_B,
        "num_items_in_batch": rollouts.sampled_BT.sum(),
    }
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    trainer.compute_loss(trainer.model, inputs).backward()
    expected = {name: p.grad for name, p in trainer.model.named_parameters()}
    differences = [recorder.gradients[name] - grad for name, grad in expected.items()]
    difference = sum(float(each.double().square().sum()) for each in differences)
    norm = sum(float(grad.double().square().sum()) for grad in expected.values())
    trainer.model.zero_grad()
    return (difference / norm) ** 0.5


def main() -> int:
    """Exit code 0; measures and prints everything."""
    parser = measuring.parser(__doc__, threads=2)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--alpha", type=float, default=0.0)
    parser.add_argument("--overrides", nargs="*", default=[], help="more KEY=VALUE settings for dqo's side")
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    dtypes = [f"learner.dtype={arguments.dtype}", f"rollout.dtype={arguments.dtype}"]
    credit = ["credit=none"] if arguments.alpha == 0 else []
    overrides = [*SETTINGS[arguments.setting], f"alpha={arguments.alpha}", *dtypes, *credit, *arguments.overrides]
    ours = Ours(overrides)
    turns = Turns(ours)
    with tempfile.TemporaryDirectory() as folder:
        trainer = theirs(ours, folder, bf16=arguments.dtype == "bfloat16", rounds=arguments.rounds, callback=turns)
        difference = gradient_difference(ours, trainer)
        trainer.train()
    torch.set_num_threads(arguments.threads)
    medians = measuring.medians({name: taken[1:] for name, taken in turns.seconds.items()})  # the first is a warm-up
    ratio = medians["trl"] / medians["dqo"]
    target = TARGETS[arguments.setting] if arguments.alpha == 0 else TARGET_DIVERSE
    stages = {
        stage: sorted(step.seconds.get(stage, 0.0) for step in ours.steps[1:])[len(ours.steps[1:]) // 2]
        for stage in ours.steps[-1].seconds
    }
    tokens = [int(step.experience.rollouts.sampled_BT.sum()) for step in ours.steps[1:]]
    print(f"{arguments.setting} {arguments.dtype} alpha={arguments.alpha:g}: gradients differ by {difference:.1e}")
    print(f"trl {medians['trl']:.2f} s  dqo {medians['dqo']:.2f} s  {ratio:.2f}×{measuring.verdict(ratio, target)}")
    print("dqo's stages: " + "  ".join(f"{name} {taken:.2f} s" for name, taken in stages.items()), flush=True)
    measuring.write(
        arguments.json, machine=machine, arguments=vars(arguments), seconds=turns.seconds, medians=medians,
        ratio=ratio, gradient_difference=difference, stages=stages, sampled_tokens=tokens,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
