"""Term ``replay``: the policy keeps every verified answer that it has found."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from dqo import distributed
from dqo.errors import ConfigError
from dqo.loss.exemplars.batch import Exemplars, batch, correct_completions
from dqo.ranges import Count
from dqo.records import Experience, LossInputs, Prompt, Supervised
from dqo.stages import Task

Modes = dict[str, array]  # the tokens of one completion of each mode, the one replayed longest ago first


class Replay:
    """Mode replay (Re:Max): -w * mean over modes of log policy(e | x) / length of e, mean over the step's prompts.

    w = coefficient * (k - 1) / k^2. A mode is one ``Task.key`` of correct completions; e, its exemplar, is the first
    completion that had it. The buffer holds an exemplar of every mode that any rank has verified, by the prompt's
    tokens, this step's included. A step replays at most ``per_prompt`` of a prompt's, those that were replayed longest
    ago. All ranks hold the whole buffer, since another one may draw the prompt next time.
    """

    names = ("replay/modes",)
    only_advantages = True  # adds nothing to the loss of the step's own completions
    needs_correct = True

    def __init__(
        self,
        task: Task,
        *,
        coefficient: Annotated[float, Field(gt=0, examples=[0.1])],
        per_prompt: Annotated[int, Field(ge=1, examples=[16])],
        k: Count,
    ):
        if k == 1:
            raise ConfigError("k=1: the term replay weighs modes by (k - 1) / k^2, which is 0; type k=8, or loss=clip")
        self.task, self.weight, self.per_prompt = task, coefficient * (k - 1) / k**2, per_prompt
        self.buffer: dict[tuple[int, ...], Modes] = {}
        self.modes = 0.0  # mean number of modes in the buffer, over the prompts of the step

    def supervised(self, experience: Experience) -> Supervised | None:
        """Exemplars of this rank's prompts, after this step's new modes were added to the buffer. A collective."""
        prompts, ranks = experience.rollouts.prompts, distributed.all_gather(self._new(experience))
        replayed = [[self._replay(tokens, new) for tokens, new in groups] for groups in ranks]
        drawn = [tokens for groups in ranks for tokens, _ in groups]
        self.modes = sum(len(self.buffer.get(tokens, {})) for tokens in drawn) / len(drawn)
        own = zip(prompts, replayed[distributed.rank()], strict=True)
        return batch([self._weighted(prompt, completions, len(drawn)) for prompt, completions in own])

    def __call__(self, inputs: LossInputs) -> tuple[Float[Tensor, ""], Mapping[str, tuple[Tensor, Tensor]]]:
        """0: the exemplars are no part of the step's completions."""
        zero = inputs.logprobs_N.new_zeros(())
        return zero, {"replay/modes": (torch.tensor(self.modes), torch.ones(()))}

    def state_dict(self) -> dict[str, Any]:
        """The buffer as lists: [prompt's tokens, [[mode, exemplar's tokens], …]], each in the order of their replay."""
        return {
            "buffer": [
                [list(prompt), [[mode, own.tolist()] for mode, own in modes.items()]]
                for prompt, modes in self.buffer.items()
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` returned."""
        self.buffer = {
            tuple(prompt): {mode: array("i", own) for mode, own in modes} for prompt, modes in state["buffer"]
        }

    def _new(self, experience: Experience) -> list[tuple[tuple[int, ...], Modes]]:
        """For each prompt of this rank its tokens, and the modes that the buffer lacks."""
        rollouts, found = experience.rollouts, []
        rows = correct_completions(rollouts, experience.rewards, key="loss.terms.replay")
        for prompt, correct in zip(rollouts.prompts, rows, strict=True):
            known, new = self.buffer.get(prompt.tokens, {}), Modes()
            for row, tokens in correct:
                mode = self.task.key(prompt, rollouts.texts[row])
                if mode not in known and mode not in new:
                    new[mode] = array("i", tokens)
            found.append((prompt.tokens, new))
        return found

    def _replay(self, tokens: tuple[int, ...], new: Modes) -> list[array]:
        """Adds a prompt's new modes; returns the exemplars to replay now, which move to the end of the queue."""
        if not new and tokens not in self.buffer:
            return []
        modes = self.buffer.setdefault(tokens, {})
        for mode, own in new.items():
            modes.setdefault(mode, own)
        chosen = list(modes)[: self.per_prompt]
        for mode in chosen:
            modes[mode] = modes.pop(mode)
        return [modes[mode] for mode in chosen]

    def _weighted(self, prompt: Prompt, completions: Sequence[array], prompts: int) -> Exemplars:
        weights = [self.weight / (prompts * len(completions) * len(own)) for own in completions]
        return Exemplars(prompt=prompt, completions=completions, weights=weights)
