import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dqo.errors import ConfigError
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import CHATS, PROMPTS, ROLLOUTS, TEXTS, prompt

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

def of_trl(completions, trainer_state): return []
def of_trl_optional(completions, trainer_state=None, log_metric=None): return [1.0] * len(completions)
def unknown(completions, solution): return []
def by_position(completions, /): return []
def wants_date(completions, date): return [1.0] * len(completions)
"""


def log_lines(folder):
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
    [[prompts, completions, ids, columns]] = log_lines(folder)  # one call per record
    assert prompts == ["say w1"] * 6 and completions == TEXTS  # whole groups, in order
    assert columns == {"answer": ["w1"] * 3 + ["w2"] * 3, "id": [7] * 3 + [8] * 3}
    assert ids[0] == [4, 1] and ids[1] == [4, 8]  # with the end token, if there is one
    for b, row in enumerate(ids):
        assert row == ROLLOUTS.tokens_BT[b][ROLLOUTS.sampled_BT[b]].tolist()


def test_arguments_are_trls_for_conversations(build, folder):
    build("sees", CHATS).score(make_rollouts(["w1", "w2"], 2, prompts=CHATS))
    [[prompts, completions, _, _]] = log_lines(folder)
    assert prompts == [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]] * 2
    assert completions == [[{"role": "assistant", "content": "w1"}], [{"role": "assistant", "content": "w2"}]]


def test_columns_with_trls_own_names_are_not_passed(build, folder):
    prompts = (prompt(0, prompt="p", completion="c", other=None), prompt(1, more=1))
    build("sees", prompts).score(make_rollouts(["w1", "w2"], 1, prompts=prompts))
    assert log_lines(folder)[0][3] == {"other": [None, None], "more": [None, 1]}  # None where a prompt lacks the column


def test_a_function_gets_only_arguments_that_it_takes(build):
    assert build("right").score(ROLLOUTS).total_PK.tolist() == [[1, 0, 0], [1, 0, 0]]


def test_a_file_can_import_its_neighbours(build, folder):
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


def test_none_is_left_out_of_the_sum_and_a_row_of_nones_is_invalid(build):
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
        ("of_trl", {}, "needs trainer_state, which only TRL passes; give it a default, trainer_state=None"),
        (
            "unknown",
            {},
            "needs solution, which no column provides; there are prompts, .* answer, id",
        ),
        ("by_position", {}, "takes completions by position only, but dqo passes it by name"),
        ("score", {"reward_weights": [1.0, 2.0]}, r"has 2 numbers for 1 functions; type reward.reward_weights=\[1.0\]"),
        ("hoard.score", {"memory_gb": 1.0}, "MemoryError.*a module that loads a model needs a larger reward.memory_gb"),
    ],
)
def test_mistakes_are_found_at_construction(build, folder, function, changes, message):
    (folder / "broken.py").write_text("\nimport numpyy\n")
    (folder / "typo.py").write_text("def score(:\n")
    (folder / "quits.py").write_text("import sys\nsys.exit(4)\n")
    (folder / "slow.py").write_text("while True: pass\n")
    (folder / "hoard.py").write_text("model = bytearray(1 << 31)\n")
    with pytest.raises(ConfigError, match=message) as caught:
        build(function, **changes)
    assert "\n" not in str(caught.value)


def test_columns_that_cannot_be_passed(build):
    date = (prompt(0, date=complex(1)),)
    with pytest.raises(ConfigError, match=r"cannot be given the column date: .*complex"):
        build("wants_date", date)
    build("some", date).score(make_rollouts(["w1"], 1, prompts=date))  # the function does not take that column
    with pytest.raises(ConfigError, match="is given prompts already; rename"):
        build("score", (prompt(0, prompts=1),))


def test_optional_arguments_of_trl_get_their_defaults(build):
    assert build("of_trl_optional").score(ROLLOUTS).total_PK.tolist() == [[1] * 3] * 2
