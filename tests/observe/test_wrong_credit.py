import logging
import math

import pytest

from dqo.observe.wrong_credit import STEPS, WrongCreditWarning
from tests.helpers.steps import make_step


def shown(caplog, shares, gate="none"):
    warning = WrongCreditWarning(gate=gate)
    with caplog.at_level(logging.WARNING):
        for share in shares:
            warning(make_step(), {"credit_wrong_share": share})
    return [record.getMessage() for record in caplog.records]


def test_warns_once_with_what_to_type(caplog):
    (line,) = shown(caplog, [0.9] * (3 * STEPS))
    assert "90 % of the credit in the last 10 steps" in line and "type credit.gate=correct" in line


@pytest.mark.parametrize(
    "shares", [[0.9] * (STEPS - 1), [0.5] * 3 * STEPS, [0.9, 0.05] * STEPS, [math.nan] * 3 * STEPS]
)
def test_says_nothing_of_short_runs_mixed_credit_and_where_correctness_is_undefined(caplog, shares):
    assert shown(caplog, shares) == []


def test_steps_without_credit_are_not_counted(caplog):
    assert len(shown(caplog, [0.9, math.nan] * STEPS)) == 1
