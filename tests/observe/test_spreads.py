import logging
import math

from dqo.observe.spreads import SpreadNotice
from tests.helpers.steps import make_step


def test_said_once_in_the_first_step_with_rewards_that_differ(caplog):
    notice = SpreadNotice(alpha=2.0)
    known = {"credit_spread": 0.05, "reward_spread": 0.5, "spread_ratio": 0.2}
    with caplog.at_level(logging.INFO):
        for number, metrics in enumerate((known | {"spread_ratio": math.nan}, known, known), 1):
            notice(make_step(number), metrics)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "step 2: within a group alpha * credit differs by 0.1 and the reward by 0.5, a ratio of 0.2 (spread_ratio; "
    )
