"""What a gate prevents, for every option of ``conf/credit`` that has one: being paid for a different wrong answer."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dqo.capabilities import PaysTokens
from dqo.embed.fake import Fake
from dqo.run.build import make
from tests.credit.builders import available
from tests.factories import make_rewards, make_rollouts

CONF = Path(__file__).parents[3] / "conf" / "credit"
OPTIONS = [
    path.stem
    for path in sorted(CONF.glob("*.yaml"))
    if "gate" in OmegaConf.load(path) and "_target_" in OmegaConf.load(path)
]
RIGHT = ["w1 w2", "w1 w2", "w3 w4", "w1 w5"]
WRONG = ["w1 w2", "w6 w7", "w8"]  # as right ones, and unlike them
HACKS = ["zlorp qwx vunti", "🦊🎉 🧿", "w1 w2 " * 20]  # gibberish, emoji, length
EMPTY = "\u200b "


def credits_of(credit, texts):
    """Credits of a group in which the first four are right."""
    rollouts = make_rollouts(texts, len(texts))
    rewards = make_rewards([[1.0] * len(RIGHT) + [0.0] * (len(texts) - len(RIGHT))])
    if isinstance(credit, PaysTokens):
        return credit.assign_tokens(rollouts, rewards).sum(1)
    return credit.assign(rollouts, rewards, Fake(dim=64).encode(rollouts) if credit.uses_embeddings else None)[0]


@pytest.mark.parametrize("option", OPTIONS)
def test_with_a_gate_wrong_answers_earn_nothing_and_change_nothing(option):
    node = OmegaConf.merge(OmegaConf.load(CONF / f"{option}.yaml"), {"gate": "correct"})
    credit = make(node, "credit", available())  # type: ignore[arg-type]
    honest_K, hacked_K = (credits_of(credit, [*RIGHT, *wrong, EMPTY]) for wrong in (WRONG, HACKS))
    assert hacked_K[len(RIGHT) :].tolist() == [0.0] * 4
    torch.testing.assert_close(hacked_K[: len(RIGHT)], honest_K[: len(RIGHT)])


@pytest.mark.parametrize("option", ["dpp", "distance", "nearest", "elliptic", "vendi", "setpo", "ngram", "gapo"])
def test_without_a_gate_gibberish_earns_more_than_a_right_answer_that_others_gave(option):
    node = OmegaConf.merge(OmegaConf.load(CONF / f"{option}.yaml"), {"gate": "none"})
    credits_K = credits_of(make(node, "credit", available()), [*RIGHT, *HACKS, EMPTY])  # type: ignore[arg-type]
    assert credits_K[len(RIGHT)] > credits_K[0] and credits_K[-1] == 0.0
