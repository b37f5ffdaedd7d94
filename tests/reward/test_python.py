import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dqo.errors import ConfigError, StageError
from dqo.reward.python import Python
from dqo.reward.sandbox import SandboxError
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import FixedPrompts, prompt

PROMPTS = (prompt(3, answer="w1", id=7), prompt(4, answer="w2", id=8))
CHATS = (prompt(3, ({"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}), answer="w1"),)
TEXTS = ["w1", "w1 w5", "w2", "w2", "w3", "w1 w2 w3"]
ROLLOUTS = make_rollouts(TEXTS, 3, prompts=PROMPTS, finished=[True, False, True, True, True, True])

MODULE = """
import json, os, sys, time

log = lambda value: open("log.jsonl", "a").write(json.dumps(value) + "\\n")
number = 3

def score(completions, **kwargs): return [float(len(c.split())) for c in completions]
def right(completions, answer): return [1.0 if c == a else 0.0 for c, a in zip(completions, answer)]
def sees(prompts, completions, completion_ids, **columns):
    log([prompts, completions, completion_ids, columns])
    return [0.0] * len(completions)
def some(completions): return [None if c == "w2" else 1.0 for c in completions]
def none(completions): return [None] * len(completions)
async def later(completions): return [2.0] * len(completions)
class Counts:
    calls = 0
    def __call__(self, completions):
        Counts.calls += 1
        return [float(Counts.calls)] * len(completions)
counts = Counts()
def shouts(completions):
    print("a line that is no reply")
    return (2 for _ in completions)

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

def of_trl(completions, trainer_state): return []
def of_trl_optional(completions, trainer_state=None, log_metric=None): return [1.0] * len(completions)
def unknown(completions, solution): return []
def by_position(completions, /): return []
def wants_date(completions, date): return [1.0] * len(completions)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def build(folder):
    """Python rewards, closed after the test."""
    built = []

    def build(function, prompts=PROMPTS, **changes) -> Python:
        settings = {
            "reward_weights": None, "correct_above": None, "timeout": 5.0, "start_timeout": 5.0, "on_error": "raise",
            "mask_truncated_completions": False,
        } | changes  # fmt: skip
        if isinstance(function, str) and not set(".:[") & set(function):
            function = f"my_module.{function}"
        built.append(Python(FixedPrompts(prompts=tuple(prompts)), function=function, **settings))
        return built[-1]

    yield build
    for reward in built:
        reward.close()


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_one_function(build):
    reward = build("score")
    rewards = reward.score(ROLLOUTS)
    assert rewards.total_PK.tolist() == [[1, 2, 1], [1, 1, 3]]
    assert list(rewards.parts) == ["score"] and rewards.correct_PK is None and rewards.valid_PK.all()
    assert reward.counters() == {"score/errors": 0, "score/timeouts": 0, "score/restarts": 0}
    assert isinstance(reward, Reward)


def test_arguments_are_trls_for_plain_prompts(build, folder):
    build("sees").score(ROLLOUTS)
    [[prompts, completions, ids, columns]] = logged(folder)  # once a record
    assert prompts == ["say w1"] * 6 and completions == TEXTS  # whole groups, in order
    assert columns == {"answer": ["w1"] * 3 + ["w2"] * 3, "id": [7] * 3 + [8] * 3}
    assert ids[0] == [4, 1] and ids[1] == [4, 8]  # the end token where there is one
    for b, row in enumerate(ids):
        assert row == ROLLOUTS.tokens_BT[b][ROLLOUTS.sampled_BT[b]].tolist()


def test_arguments_are_trls_for_conversations(build, folder):
    build("sees", CHATS).score(make_rollouts(["w1", "w2"], 2, prompts=CHATS))
    [[prompts, completions, _, _]] = logged(folder)
    assert prompts == [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]] * 2
    assert completions == [[{"role": "assistant", "content": "w1"}], [{"role": "assistant", "content": "w2"}]]


def test_trls_own_names_for_the_row_are_no_columns(build, folder):
    prompts = (prompt(0, prompt="p", completion="c", other=None), prompt(1, more=1))
    build("sees", prompts).score(make_rollouts(["w1", "w2"], 1, prompts=prompts))
    assert logged(folder)[0][3] == {"other": [None, None], "more": [None, 1]}  # a lacking column is None


def test_a_function_is_given_what_it_takes(build):
    assert build("right").score(ROLLOUTS).total_PK.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_file_with_neighbours(build, folder):
    (folder / "sub dir").mkdir()
    (folder / "sub dir" / "rewards.py").write_text(
        "import near\ndef f(completions): return [near.x] * len(completions)\n"
    )
    (folder / "sub dir" / "near.py").write_text("x = 4\n")
    rewards = build("sub dir/rewards.py:f").score(ROLLOUTS)
    assert rewards.parts["f"].tolist() == [[4] * 3] * 2


def test_several_functions_are_weighted_and_named(build, folder):
    (folder / "other.py").write_text("def score(completions): return [10.0] * len(completions)\n")
    reward = build(["my_module.score", "other.score", "my_module.right"], reward_weights=[1.0, 0.5, -2.0])
    rewards = reward.score(ROLLOUTS)
    assert list(rewards.parts) == ["my_module.score", "other.score", "my_module.right"]
    assert rewards.total_PK.tolist() == [[4, 7, 6], [4, 6, 8]]
    assert build(["my_module.score", "my_module.right"]).score(ROLLOUTS).total_PK.tolist() == [[2, 2, 1], [2, 1, 3]]


def test_none_is_left_out_and_a_row_of_nones_is_invalid(build):
    rewards = build(["my_module.some", "my_module.none", "my_module.score"], reward_weights=[1.0, 1.0, 10.0]).score(
        ROLLOUTS
    )
    assert rewards.total_PK.tolist() == [[11, 21, 10], [10, 11, 31]] and rewards.valid_PK.all()
    assert rewards.parts["some"].isnan().tolist() == [[False, False, True], [True, False, False]]
    rewards = build(["my_module.some", "my_module.none"]).score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True, False], [False, True, True]]
    assert rewards.total_PK.tolist() == [[1, 1, 0], [0, 1, 1]]


def test_coroutines_callable_objects_generators_and_state(build):
    assert build("later").score(ROLLOUTS).total_PK.tolist() == [[2] * 3] * 2
    assert build("shouts").score(ROLLOUTS).total_PK.tolist() == [[2] * 3] * 2
    reward = build("counts")
    assert [reward.score(ROLLOUTS).total_PK[0, 0].item() for _ in range(3)] == [1, 2, 3]


def test_numpy_and_torch_numbers(build, folder):
    (folder / "with_numpy.py").write_text(
        "import numpy\n"
        "def array(completions): return numpy.arange(6)\n"
        "def mixed(completions): return [numpy.bool_(True), True, numpy.float32(1)] * 2\n"
    )
    (folder / "with_torch.py").write_text("import torch\ndef f(completions): return torch.arange(6.0)\n")
    functions = ["with_numpy.array", "with_numpy.mixed", "with_torch.f"]
    parts = build(functions, start_timeout=60.0).score(ROLLOUTS).parts
    assert parts["array"].view(-1).tolist() == parts["f"].view(-1).tolist() == [0, 1, 2, 3, 4, 5]
    assert parts["mixed"].view(-1).tolist() == [1] * 6


def test_correct_and_truncated(build):
    rewards = build("score", correct_above=1.5).score(ROLLOUTS)
    assert rewards.correct_PK is not None
    assert rewards.correct_PK.tolist() == [[False, True, False], [False, False, True]]
    rewards = build("score", correct_above=1.5, mask_truncated_completions=True).score(ROLLOUTS)
    assert rewards.correct_PK is not None
    assert rewards.valid_PK.tolist() == [[True, False, True], [True] * 3]
    assert rewards.total_PK.tolist() == [[1, 0, 1], [1, 1, 3]] and not rewards.correct_PK[0, 1]


FAILURES = {
    "short": "returned 5 values for 6 completions",
    "single": r"returned 1.0 \(float\), a list of 6 numbers or None is needed",
    "nothing": r"returned None \(NoneType\)",
    "mapping": r"returned .*\(dict\), a list",
    "texts": r"returned '1.0' \(str\) for row 0 of 6, a finite number or None is needed",
    "huge": r"returned 1e\+39 for row 0",
    "raises": r"failed on 6 completions: JSONDecodeError: Expecting value.*\(my_module.py:\d+ in raises: .*json.loads",
    "hangs": "no answer within 0.5 seconds.*reward.timeout.*reward.on_error=mask",
    "leaves": "its process ended with exit code 3",
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_are_masked_counted_and_told_once(build, caplog, name):
    reward = build(name, timeout=0.5, on_error="mask")
    rewards = reward.score(ROLLOUTS)
    assert not rewards.valid_PK.any() and not rewards.total_PK.any() and rewards.parts[name].isnan().all()
    timeouts, restarts = 6 * (name == "hangs"), int(name in ("hangs", "leaves"))
    assert reward.counters() == {f"{name}/errors": 6, f"{name}/timeouts": timeouts, f"{name}/restarts": restarts}
    [record] = caplog.records
    assert record.message.startswith(f"[reward, prompts 3, 4] python function my_module.{name} ")
    assert re.search(FAILURES[name], record.message)


@pytest.mark.parametrize("name", ["short", "leaves"])
def test_failures_stop_the_run_by_default(build, name):
    with pytest.raises(StageError, match=FAILURES[name]) as caught:
        build(name).score(ROLLOUTS)
    assert caught.value.positions == (3, 4)
    assert isinstance(caught.value.__cause__, SandboxError) == (name == "leaves")


def test_a_bad_value_costs_its_row_alone(build):
    with pytest.raises(StageError, match="returned nan for row 2 of 6") as caught:
        build("nan").score(ROLLOUTS)
    assert caught.value.positions == (3, 4)
    reward = build("nan", on_error="mask")
    rewards = reward.score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True, False], [True, True, False]]
    assert rewards.total_PK.tolist() == [[1, 1, 0], [1, 1, 0]] and reward.counters()["nan/errors"] == 2


def test_a_number_in_place_of_failures(build):
    reward = build(["my_module.nan", "my_module.score"], on_error="-1", correct_above=-10.0)
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


def test_after_a_time_out_the_function_is_used_again(build):
    reward = build("first_time_hangs", timeout=0.5, on_error="mask")
    assert not reward.score(ROLLOUTS).valid_PK.any()
    assert reward.score(ROLLOUTS).total_PK.tolist() == [[1] * 3] * 2
    assert reward.counters()["first_time_hangs/restarts"] == 1


def test_two_threads(build):
    reward, together = build("score"), threading.Barrier(2)
    other = make_rollouts(["w1 w2 w3 w4"] * 4, 2, prompts=PROMPTS)

    def score(rollouts):
        together.wait()
        return [reward.score(rollouts).total_PK.tolist() for _ in range(50)]

    with ThreadPoolExecutor(2) as threads:
        mine, others = threads.submit(score, ROLLOUTS), threads.submit(score, other)
    assert mine.result() == [[[1, 2, 1], [1, 1, 3]]] * 50
    assert others.result() == [[[4, 4], [4, 4]]] * 50


@pytest.mark.parametrize(
    ("function", "changes", "message"),
    [
        (
            "my_module.scor",
            {},
            "function=my_module.scor: .*my_module.py has no function scor; did you mean score",
        ),
        ("my_modul.score", {}, "there is no module my_modul in .* or among the installed packages"),
        ("my_module.sub.score", {}, "there is no module my_module.sub"),
        ("my_module.number", {}, r"my_module.number is 3 \(int\), a function is needed"),
        ("rewards.py:score", {}, "there is no file .*rewards.py"),
        ("[score", {}, "a module and a function are needed; type reward.function=my_module.score"),
        (".score", {}, "a module and a function are needed"),
        ([], {}, "a function is needed; type reward.function=my_module.score"),
        (["my_module.score", "my_module.score"], {}, "twice"),
        (
            "broken.score",
            {},
            r"No module named 'numpyy' \(broken.py:2 in <module>: import numpyy\)",
        ),
        ("typo.score", {}, r"cannot be imported: SyntaxError: .*typo.py, line 1"),
        ("quits.score", {}, "cannot be imported: its process ended with exit code 4"),
        (
            "slow.score",
            {"start_timeout": 0.5},
            "no answer within 0.5 seconds.*reward.start_timeout",
        ),
        ("of_trl", {}, "needs trainer_state, which only TRL has; default it: trainer_state=None"),
        (
            "unknown",
            {},
            "needs solution, which no column provides; there are prompts, .* answer, id",
        ),
        ("by_position", {}, "takes completions by position only"),
        ("score", {"reward_weights": [1.0, 2.0]}, r"has 2 numbers for 1 functions; type reward.reward_weights=\[1.0\]"),
        ("score", {"reward_weights": [math.nan]}, "finite numbers are needed"),
        ("score", {"correct_above": math.inf}, "reward.correct_above=inf"),
        ("score", {"timeout": 0.0}, "reward.timeout=0.0: seconds above 0 are needed"),
        ("score", {"start_timeout": math.nan}, "reward.start_timeout=nan: seconds above 0 are needed"),
        ("score", {"on_error": "ignore"}, "reward.on_error=ignore: allowed are raise, mask and numbers"),
        ("score", {"on_error": "nan"}, "reward.on_error=nan"),
    ],
)
def test_mistakes_are_found_before_any_work(build, folder, function, changes, message):
    (folder / "broken.py").write_text("\nimport numpyy\n")
    (folder / "typo.py").write_text("def score(:\n")
    (folder / "quits.py").write_text("import sys\nsys.exit(4)\n")
    (folder / "slow.py").write_text("while True: pass\n")
    with pytest.raises(ConfigError, match=message) as caught:
        build(function, **changes)
    assert "\n" not in str(caught.value)


def test_columns_that_cannot_be_passed_on(build):
    date = (prompt(0, date=complex(1)),)
    with pytest.raises(ConfigError, match=r"cannot be given the column date: .*complex"):
        build("wants_date", date)
    build("some", date).score(make_rollouts(["w1"], 1, prompts=date))  # it does not take that column
    with pytest.raises(ConfigError, match="is given prompts already; rename"):
        build("score", (prompt(0, prompts=1),))


def test_trls_optional_extras_are_left_to_their_defaults(build):
    assert build("of_trl_optional").score(ROLLOUTS).total_PK.tolist() == [[1] * 3] * 2
