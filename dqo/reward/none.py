"""reward=none: nothing is judged, for measuring how a policy answers where no answer is right or wrong."""

import torch

from dqo.records import Rewards, Rollouts


class NoReward:
    """All completions are valid, and no reward is known (``Answers.rewards`` is None)."""

    judges_nothing = True

    def score(self, rollouts: Rollouts) -> Rewards:
        """Zeros (P, k) without parts; which completions are correct is not defined. Not a collective."""
        nothing_PK = torch.zeros(len(rollouts.prompts), rollouts.k)
        return Rewards(total_PK=nothing_PK, parts={}, correct_PK=None, valid_PK=nothing_PK == 0)
