"""Stages with a state, for checkpoints."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dqo.stages import Stages
from tests.helpers.scripted_stages import NoAdvantage, NoLearner, scripted_stages


class OneTensorLearner(NoLearner):
    """A learner with one weight."""

    def __init__(self, value: float = 0.0):
        self.weight = torch.full((3,), value)

    def save(self, folder: Path) -> None:
        save_file({"weight": self.weight}, folder / "model.safetensors")

    def load(self, folder: Path) -> None:
        self.weight = load_file(folder / "model.safetensors")["weight"]


class RunningMean(NoAdvantage):
    """An advantage with a state."""

    def __init__(self, mean: float = 0.0):
        self.mean = mean

    def state_dict(self):
        return {"mean": self.mean}

    def load_state_dict(self, state):
        self.mean = state["mean"]


def make_stages(value: float = 0.0, **others) -> Stages:
    """Stages with a learner and an advantage whose states are made from ``value``; ``others`` by name."""
    stages, _ = scripted_stages({})
    return replace(stages, **{"learner": OneTensorLearner(value), "advantage": RunningMean(value / 3)} | others)
