"""Every group of a small softmax policy: what an advantage's gradient is on average."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from dqo.dpp import kernel_matrix, leave_one_out_credits
from dqo.records import Estimates
from tests.advantage.experiences import experience_of, per_completion

REWARDS = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)  # of the items; items 0 and 3 have one mode
MODES = ("w0", "w1", "w2", "w0")


class Items:
    """A softmax policy over items; the same for every prompt."""

    def __init__(self, rewards: Tensor = REWARDS, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.rewards = rewards
        self.logits = torch.randn(len(rewards), generator=generator, dtype=torch.float64).requires_grad_()
        vectors = torch.randn(len(rewards), 3, generator=generator, dtype=torch.float64)
        self.embeddings = torch.nn.functional.normalize(vectors, dim=-1)

    def gradient(self, scalar: Tensor) -> Tensor:
        return torch.autograd.grad(scalar, self.logits, retain_graph=True)[0]

    def groups(self, k: int) -> Tensor:
        return torch.tensor(list(itertools.product(range(len(self.rewards)), repeat=k)))

    def expected(self, k: int, value: Callable[[Tensor], float]) -> Tensor:
        """The mean of a group's value, with its gradient; the group is given as items."""
        groups = self.groups(k)
        values = torch.tensor([value(group) for group in groups], dtype=torch.float64)
        return (self._chances(groups) * values).sum()

    def estimated(self, advantage, k: int, *, alpha: float = 0.0) -> Tensor:
        """The mean over all groups of Σ_i A_i ∇ log π(y_i), with the credits of ``credit=dpp``."""
        groups = self.groups(k)
        credits_PK = leave_one_out_credits(kernel_matrix(self.embeddings[groups]))
        texts = [MODES[i] for i in groups.flatten()]
        experience = experience_of(self.rewards[groups].tolist(), credits_PK.tolist(), texts=texts)
        advantages_PK = per_completion(experience, advantage(experience, Estimates(), alpha=alpha).advantages_BT)
        logprobs_PK = self.logits.log_softmax(-1)[groups]
        return self.gradient((self._chances(groups).detach() * (logprobs_PK * advantages_PK).sum(1)).sum())

    def _chances(self, groups: Tensor) -> Tensor:
        return self.logits.log_softmax(-1)[groups].sum(1).exp()
