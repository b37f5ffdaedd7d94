"""What runs in the process of ``task=reasoning_gym``, called directly."""

import pytest

reasoning_gym = pytest.importorskip("reasoning_gym")
from dqo.task.generators.reasoning_gym_calls import CHUNK, configure, problem, score  # noqa: E402


def test_problems_are_the_packages():
    assert configure("leg_counting", {"max_animals": 4}) is None
    for number in (0, CHUNK - 1, CHUNK, 7 * CHUNK + 3):
        entry = reasoning_gym.create_dataset("leg_counting", seed=0, size=10**6, max_animals=4)[number]
        assert problem(number) == {
            "question": entry["question"], "answer": entry["answer"], "generator": "leg_counting",
        }  # fmt: skip
        assert score(number, entry["answer"]) == 1.0


def test_a_mixture():
    assert configure("composite", {"datasets": [{"name": "gcd", "weight": 1}, {"name": "lcm"}]}) is None
    assert {problem(number)["generator"] for number in range(12)} == {"gcd", "lcm"}


def test_lists_and_names_become_the_settings_own_types():
    assert configure("gsm_symbolic", {}) is None
    assert configure("caesar_cipher", {"min_rotation": 3}) is None
    assert configure("basic_arithmetic", {"operators": ["+"]}) is None
    assert configure("letter_jumble", {}) is None


@pytest.mark.parametrize(
    ("generator", "settings", "fault"),
    [
        ("leg_count", {}, "task.generator=leg_count: there is no such generator; type task.generator=leg_counting"),
        ("🎈", {}, "task.generator=🎈: there is no such generator; type task.generator=ab|acre|advanced_geometry|"),
        (
            "leg_counting",
            {"legs": 3},
            "task.settings.legs: leg_counting has no such setting; type task.settings.min_animals=VALUE, or ",
        ),
        ("leg_counting", {"seed": 3}, "task.settings.seed: leg_counting has no such setting"),
        ("leg_counting", {"min_animals": 0}, "task.settings: leg_counting refuses min_animals=0 (min_animals must be"),
        ("leg_counting", {"min_animals": "two"}, "task.settings: leg_counting refuses min_animals=two ("),
        ("composite", {}, "task.settings: composite refuses its defaults ("),
        ("composite", {"datasets": [{"weight": 1}]}, "task.settings: composite refuses datasets="),
        ("composite", {"datasets": [{"name": "none"}]}, "task.settings: composite refuses datasets="),
        ("composite", {"datasets": 3}, "task.settings: composite refuses datasets=3"),
    ],
)
def test_wrong_keys(generator, settings, fault):
    assert str(configure(generator, settings)).startswith(fault)
