"""How much of an update the policy sees with weights in bfloat16: the table of docs/results.md.

    python scripts/bf16_updates.py [--model smollm2] [--learning-rate 1e-5] [--steps 8]

One batch of eight fixed answers to prompts of task=cities, five of them right, and AdamW on fp32 weights that start on
bfloat16's grid. Only what the model computes with differs; all arithmetic is fp32, so nothing but rounding is compared.
"""

import argparse
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from dqo.config import conf_dir
from dqo.config.typed import check
from dqo.models.rounding import rounded
from dqo.run.load_policy import load_policy

RIGHT = ("Paris", "Tokyo", "Nairobi", "Lima", "Sydney")
WRONG = ("I would recommend Paris.", "The sea", "A city")
REPORTED = (1, 2, 4, 8, 16, 32)  # steps


def nearest(weights: Tensor) -> Tensor:
    return weights.bfloat16().float()


def dithered(weights: Tensor) -> Tensor:
    """What learner and engines do (dqo.models.rounding)."""
    return rounded(weights, torch.bfloat16).float()


def stochastic(weights: Tensor) -> Tensor:
    """New random numbers at each call."""
    bits = weights.detach().clone().view(torch.int32)
    bits.add_(torch.randint_like(bits, 2**16)).bitwise_and_(-1 << 16)
    return bits.view(torch.float32)


# name: (rounding, whether the optimizer keeps what rounding lost)
METHODS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "fp32": (Tensor.clone, True),
    "nearest": (nearest, True),
    "dithered": (dithered, True),
    "stochastic": (stochastic, True),
    "stochastic without an fp32 copy": (stochastic, False),
}


class Batch:
    """Prompts with one answer each, and the advantages of the answers."""

    def __init__(self, prompts: list[list[int]], answers: list[list[int]], right: list[bool]):
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
        self.tokens_BT = torch.zeros(len(prompts), width, dtype=torch.long)
        self.sampled_BT = torch.zeros(len(prompts), width, dtype=torch.bool)
        for b, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            end = len(prompt) + len(answer)
            self.tokens_BT[b, :end] = torch.tensor(prompt + answer)
            self.sampled_BT[b, len(prompt) : end] = True
        self.right_B = torch.tensor(right)

    def logprobs(self, model: PreTrainedModel) -> Tensor:
        """Log-probability of each answer, in nats."""
        logits_BTV = model(input_ids=self.tokens_BT, use_cache=False).logits[:, :-1]
        losses_BT = cross_entropy(logits_BTV.mT, self.tokens_BT[:, 1:], reduction="none")
        return -(losses_BT * self.sampled_BT[:, 1:]).sum(1)

    def loss(self, logprobs_B: Tensor) -> Tensor:
        """The policy gradient's, with the group's mean as the baseline, per sampled token."""
        rewards_B = self.right_B.float()
        return -(logprobs_B * (rewards_B - rewards_B.mean())).sum() / self.sampled_BT.sum()


def train(model: PreTrainedModel, batch: Batch, method: str, learning_rate: float, steps: int) -> None:
    """Print rows of the table: log-probabilities of right and wrong answers, share of the update seen, changed
    weights."""
    rounding, keeps = METHODS[method]
    torch.manual_seed(0)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    exact = [Parameter(weights.clone()) for weights in start]
    optimizer = torch.optim.AdamW(exact, lr=learning_rate, weight_decay=0.0)
    with torch.no_grad():
        start_B = batch.logprobs(model)
    print(f"{method}, before: {start_B[batch.right_B].mean():.2f} / {start_B[~batch.right_B].mean():.2f}")
    for step in range(1, steps + 1):
        batch.loss(batch.logprobs(model)).backward()
        before = [(weights.detach().clone(), parameter.detach().clone()) for weights, parameter in _pairs(exact, model)]
        for weights, parameter in _pairs(exact, model):
            weights.grad, parameter.grad = parameter.grad, None
        torch.nn.utils.clip_grad_norm_(exact, 1.0)
        optimizer.step()
        product = square = 0.0
        for (weights, parameter), (old_weights, old) in zip(_pairs(exact, model), before, strict=True):
            update = weights.detach() - old_weights
            parameter.data = rounding(weights.detach())
            if not keeps:
                weights.data.copy_(parameter)
            product += float(((parameter.detach() - old) * update).sum())
            square += float(update.square().sum())
        changed = sum(int((p != s).sum()) for p, s in zip(model.parameters(), start, strict=True))
        if step in REPORTED:
            with torch.no_grad():
                logprobs_B = batch.logprobs(model)
            right, wrong = logprobs_B[batch.right_B].mean(), logprobs_B[~batch.right_B].mean()
            share = changed / sum(s.numel() for s in start)
            row = f"| {method} | {step} | {right:.2f} / {wrong:.2f} | {product / square:.3f} | {share:.1%} |"
            print(row, flush=True)
    for parameter, weights in zip(model.parameters(), start, strict=True):
        parameter.data = weights


def _pairs(exact: list[Parameter], model: PreTrainedModel) -> list[tuple[Parameter, Parameter]]:
    return list(zip(exact, model.parameters(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--methods", default=",".join(METHODS))
    arguments = parser.parse_args()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        policy, task = load_policy(
            check(compose("train", ["rollout=hf", "learner=torch_single", f"model={arguments.model}"]))
        )
    model, tokenizer = policy.model, policy.tokenizer
    for parameter in model.parameters():
        parameter.data = nearest(parameter.data)
    answers = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in (*RIGHT, *WRONG)]
    prompts = [list(prompt.tokens) for prompt in task.draw(0, len(answers))[0]]
    batch = Batch(prompts, answers, [True] * len(RIGHT) + [False] * len(WRONG))
    print("| weights | after step | right / wrong answers, nats | update seen | weights that changed |")
    print("|---|---|---|---|---|")
    for method in arguments.methods.split(","):
        train(model, batch, method, arguments.learning_rate, arguments.steps)


if __name__ == "__main__":
    main()
