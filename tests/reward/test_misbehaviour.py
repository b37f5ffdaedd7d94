"""User functions that misbehave, and the message and counters for each of them."""

import re

import pytest

from dqo.errors import StageError
from dqo.sandbox.sandbox import SandboxError
from tests.factories import make_rollouts
from tests.reward.tasks import PROMPTS, ROLLOUTS

MODULE = """
import json, os, sys, time

def score(completions): return [float(len(c.split())) for c in completions]
def short(completions): return [1.0] * (len(completions) - 1)
def single(completions): return 1.0
def nothing(completions): pass
def mapping(completions): return {c: 1.0 for c in completions}
def texts(completions): return ["1.0"] * len(completions)
def nan(completions): return [1.0, 1.0, float("nan"), 1.0, 1.0, float("inf")]
def huge(completions): return [10.0 ** 39] * len(completions)
def raises(completions): return [json.loads(c) for c in completions]
def hangs(completions):
    while True: pass
def leaves(completions): sys.exit(3)
def first_time_hangs(completions):
    if not os.path.exists("hung"):
        open("hung", "w")
        time.sleep(100)
    return [1.0] * len(completions)

def hoards(completions): return [1.0] * len(bytearray(1 << 31))
def endless(completions):
    while True: yield 1.0
async def async_generator(completions): yield 1.0
def scalar(completions):
    import numpy
    return numpy.array(1.0)
def truth(completions): return True
def interrupts(completions): raise KeyboardInterrupt
def strange(completions):
    class Strange:
        def __repr__(self): raise ValueError("no words")
    return Strange()
def clears(prompts, completions, completion_ids, answer):
    n = len(completions)
    for column in (prompts, completions, completion_ids, answer): column.clear()
    return [1.0] * n
def truncated_fail(completions): return [float("nan") if c == "w1 w5" else 1.0 for c in completions]
def crowded(completions):
    for part in "abc": os.makedirs("moved/" + part, exist_ok=True)
    os.chdir("moved/a")
    print("said on the way")
    return [float(len(os.listdir("..")))] * len(completions)
"""


FAILURES = {
    "short": "returned 5 values for 6 completions",
    "single": r"returned 1.0 \(float\), a list of 6 numbers or None is needed",
    "nothing": r"returned None \(NoneType\)",
    "mapping": r"returned .*\(dict\), a list",
    "texts": r"returned '1.0' \(str\) for row 0 of 6, a finite number or None is needed",
    "huge": r"returned 1e\+39 for row 0",
    "hoards": "failed on 6 completions: MemoryError.*; raise reward.memory_gb",
    "endless": "returned more than 6 values for 6 completions",
    "async_generator": r"\(async_generator\), a list of 6 numbers",
    "scalar": "TypeError: iteration over a 0-d array",
    "truth": r"returned True \(bool\), a list of 6 numbers",
    "interrupts": "its process was killed by SIGINT",
    "strange": "ValueError: no words",
    "raises": r"failed on 6 completions: JSONDecodeError: Expecting value.*\(my_module.py:\d+ in raises: .*json.loads",
    "hangs": "no answer within 0.5 seconds.*reward.timeout.*reward.on_error=mask",
    "leaves": "its process ended with exit code 3",
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_masked_counted_and_logged_once(build, caplog, name):
    reward = build(name, timeout=0.5 if name == "hangs" else 5.0, on_error="mask", memory_gb=1.0)
    rewards = reward.score(ROLLOUTS)
    assert not rewards.valid_PK.any() and not rewards.total_PK.any() and rewards.parts[name].isnan().all()
    timeouts, restarts = 6 * (name == "hangs"), int(name in ("hangs", "leaves", "interrupts"))
    assert reward.counters() == {f"{name}/errors": 6, f"{name}/timeouts": timeouts, f"{name}/restarts": restarts}
    [record] = caplog.records
    assert record.message.startswith(f"[reward, prompts 3, 4] python function my_module.{name} ")
    assert re.search(FAILURES[name], record.message)


def test_a_function_changes_only_its_own_copy_of_the_arguments(build):
    texts = tuple(ROLLOUTS.texts)
    parts = build(["my_module.clears", "my_module.score"]).score(ROLLOUTS).parts
    assert parts["clears"].eq(1).all() and parts["score"].tolist() == [[1, 2, 1], [1, 1, 3]]
    assert ROLLOUTS.texts == texts and PROMPTS[0].columns == {"answer": "w1", "id": 7}


def test_a_function_that_changes_its_folder_is_still_found(build, folder):
    reward = build("my_module.py:crowded", on_error="mask")
    assert [reward.score(ROLLOUTS).total_PK[0, 0].item() for _ in range(2)] == [3, 3]  # the second time from moved/a
    assert reward.counters()["crowded/errors"] == 0


def test_values_for_masked_completions_are_ignored(build):
    """Completion 1 is truncated: its NaN does not stop the run, is not counted and changes no other completion."""
    with pytest.raises(StageError, match="returned nan for row 1"):
        build("truncated_fail").score(ROLLOUTS)
    reward = build("truncated_fail", mask_truncated_completions=True)
    rewards = reward.score(ROLLOUTS)
    assert (
        rewards.valid_PK.tolist() == [[True, False, True], [True] * 3] and rewards.parts["truncated_fail"][0, 1].isnan()
    )
    assert reward.counters()["truncated_fail/errors"] == 0
    reward = build("raises", mask_truncated_completions=True, on_error="mask")
    reward.score(ROLLOUTS)
    assert reward.counters()["raises/errors"] == 5
    cut = make_rollouts(["w1"] * 3, 3, prompts=PROMPTS[:1], finished=[False] * 3)
    assert not build("raises", mask_truncated_completions=True).score(cut).valid_PK.any()  # the function was not called


@pytest.mark.parametrize("name", ["short", "leaves"])
def test_failures_stop_the_run_by_default(build, name):
    with pytest.raises(StageError, match=FAILURES[name]) as caught:
        build(name).score(ROLLOUTS)
    assert caught.value.positions == (3, 4)
    assert isinstance(caught.value.__cause__, SandboxError) == (name == "leaves")


def test_a_bad_value_invalidates_its_row_only(build):
    with pytest.raises(StageError, match="returned nan for row 2 of 6") as caught:
        build("nan").score(ROLLOUTS)
    assert caught.value.positions == (3, 4)
    reward = build("nan", on_error="mask")
    rewards = reward.score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True, False], [True, True, False]]
    assert rewards.total_PK.tolist() == [[1, 1, 0], [1, 1, 0]] and reward.counters()["nan/errors"] == 2


def test_failures_get_the_number_of_on_error(build):
    reward = build(["my_module.nan", "my_module.score"], on_error=-1.0, correct_above=-10.0)
    rewards = reward.score(ROLLOUTS)
    assert rewards.valid_PK.all()
    assert rewards.parts["nan"].tolist() == [[1, 1, -1], [1, 1, -1]]
    assert rewards.total_PK.tolist() == [[2, 3, 0], [2, 2, 2]]
    assert reward.counters()["nan/errors"] == 2


def test_later_failures_are_only_counted(build, caplog):
    reward = build("short", on_error="mask")
    for _ in range(3):
        reward.score(ROLLOUTS)
    assert len(caplog.records) == 1 and reward.counters()["short/errors"] == 18


def test_after_a_timeout_the_function_is_called_again(build):
    reward = build("first_time_hangs", timeout=0.5, on_error="mask")
    assert not reward.score(ROLLOUTS).valid_PK.any()
    assert reward.score(ROLLOUTS).total_PK.tolist() == [[1] * 3] * 2
    assert reward.counters()["first_time_hangs/restarts"] == 1
