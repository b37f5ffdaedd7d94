"""A short run of every credit, advantage, loss and algorithm that ``conf`` offers."""

from pathlib import Path

import pytest

from dqo.config import conf_dir
from dqo.config.validate import validate
from dqo.run.job import Job
from dqo.run.stopping import Stopping
from dqo.run.training import run
from tests.helpers.composing import composed

NEEDS = {
    "advantage=gae": ("critic=head",),
    "advantage=set": ("advantage.n=2",),
    "credit=none": ("alpha=0",),
    "credit=partition": ("credit.by=key",),
    "loss=kl_cov": ("learner.num_iterations=2",),
    "loss=kl_sequence": ("beta=0.1",),
}
CHOICES = [
    f"{group}={path.stem}"
    for group in ("credit", "advantage", "loss", "algorithm")
    for path in sorted(Path(conf_dir(), group).glob("*.yaml"))
]


@pytest.mark.parametrize("choice", CHOICES)
def test_two_steps_end(choice, tmp_path, capsys):
    config = composed("steps=2", choice, *NEEDS.get(choice, ()))
    validate(config)
    run(Job(config=config, folder=tmp_path, ownership=None, stopping=Stopping()))
