import inspect
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from dqo.config.open_keys import with_plus
from dqo.errors import ConfigError, StageError
from dqo.reward.check import Check
from dqo.reward.python import Python
from dqo.reward.weighted import WeightedSum
from dqo.run.build import make
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import FixedPrompts, prompt

CONF = Path(__file__).parents[2] / "conf"
PROMPTS = (prompt(3, answer="w1"), prompt(4, answer="w2"))
TASK = FixedPrompts(prompts=PROMPTS)
ROLLOUTS = make_rollouts(["w1", "w1 w1", "w2", "w2"], 2, prompts=PROMPTS, finished=[True, True, True, False])
CHECK = Check(TASK, mask_truncated_completions=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(
        "def style(completions): return [float(len(c)) for c in completions]\n"
        "def some(completions): return [None if ' ' in c else 1.0 for c in completions]\n"
        "def fails(completions): return [1.0]\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(function, **changes) -> Python:
    settings = {
        "reward_weights": None, "correct_above": None, "timeout": 5.0, "start_timeout": 5.0, "on_error": "mask",
        "mask_truncated_completions": False, "memory_gb": 16.0,
    } | changes  # fmt: skip
    return Python(TASK, function=function, **settings)


def weighted(parts, weights, correct_from=None, mask=False) -> WeightedSum:
    return WeightedSum(parts=parts, reward_weights=weights, correct_from=correct_from, mask_truncated_completions=mask)


def test_totals_parts_and_correctness(folder):
    parts = {"check": CHECK, "style": python("my_module.style")}
    reward = weighted(parts, {"check": 2.0, "style": 0.5}, "check")
    assert isinstance(reward, Reward)
    rewards = reward.score(ROLLOUTS)
    assert rewards.parts["check"].tolist() == [[0.75, 0.25], [0.75, 0.5]]
    assert rewards.parts["style"].tolist() == [[2, 5], [2, 2]]
    assert rewards.total_PK.tolist() == [[2.5, 3.0], [2.5, 2.0]]
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False], [True, False]]
    assert weighted(parts, {"check": 1.0, "style": 1.0}).score(ROLLOUTS).correct_PK is None
    reward.close()


def test_invalid_in_one_part_is_invalid(folder):
    parts = {"check": Check(TASK, mask_truncated_completions=True), "some": python("my_module.some")}
    reward = weighted(parts, {"check": 1.0, "some": 1.0}, "check")
    rewards = reward.score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, False], [True, False]]
    assert rewards.total_PK.tolist() == [[1.75, 0], [1.75, 0]]
    assert rewards.parts["check"].isnan().tolist() == [[False, False], [False, True]]
    assert rewards.parts["some"].isnan().tolist() == [[False, True], [False, False]]
    assert rewards.correct_PK is not None and not (rewards.correct_PK & ~rewards.valid_PK).any()
    reward.close()


def test_truncated_completions_are_masked_in_the_sum():
    parts = {"check": CHECK}
    rewards = weighted(parts, {"check": 1.0}, mask=True).score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True], [True, False]] and rewards.total_PK[1, 1] == 0


def test_a_part_with_several_functions_adds_their_parts_and_counters(folder):
    parts = {
        "mine": python(["my_module.style", "my_module.fails"]),
        "check": CHECK,
    }
    reward = weighted(parts, {"mine": 1.0, "check": 1.0})
    rewards = reward.score(ROLLOUTS)
    assert list(rewards.parts) == ["mine", "check", "mine/style", "mine/fails"]
    assert rewards.parts["mine/style"].tolist() == [[2, 5], [2, 2]] and not rewards.valid_PK.any()
    counters = reward.counters()
    assert counters["mine/fails/errors"] == 4 and counters["mine/style/errors"] == 0
    reward.close()


def test_a_sum_beyond_float32_names_the_prompts():
    with pytest.raises(StageError, match="weighted sum of a, b is beyond float32") as caught:
        weighted({"a": CHECK, "b": CHECK}, {"a": 3e38, "b": 3e38}).score(ROLLOUTS)
    assert caught.value.positions == (3, 4)


def test_correct_from_a_part_without_correctness(folder):
    reward = weighted({"style": python("my_module.style")}, {"style": 1.0}, "style")
    with pytest.raises(StageError, match=r"type reward\.parts\.style\.correct_above=0\.5 or"):
        reward.score(ROLLOUTS)
    reward.close()


@pytest.mark.parametrize(
    ("parts", "weights", "correct_from", "message"),
    [
        ({}, {}, None, "reward=weighted has no parts.*check_and_python.yaml"),
        ({"check": None}, {"check": 1.0}, None, "parts.check=None: an option of the group reward is needed"),
        ({"check": CHECK}, {}, None, "one number each for check is needed"),
        ({"check": CHECK}, {"check": 1.0, "other": 1.0}, None, "reward.reward_weights=.*other.*each for check"),
        ({"check": CHECK}, {"check": 1.0}, "style", "reward.correct_from=style: one of check is needed, or null"),
    ],
)
def test_mistakes_are_found_at_construction(parts, weights, correct_from, message):
    with pytest.raises(ConfigError, match=message):
        weighted(parts, weights, correct_from)


def reward_node(tmp_path, *overrides, option=None):
    """The node ``reward`` of a configuration with nothing else; ``option``: the text of a user's own YAML file."""
    primary = f"defaults: [reward: check, _self_]\nhydra:\n  searchpath: ['file://{CONF}']\n"
    (tmp_path / "only.yaml").write_text(primary)
    (tmp_path / "reward").mkdir()
    if option:
        (tmp_path / "reward" / "mine.yaml").write_text(option)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("only", overrides=list(overrides))
    return OmegaConf.to_container(config, resolve=True)["reward"]


def test_the_shipped_example(folder):
    node = reward_node(folder, "reward=check_and_python", "reward.parts.style.function=my_module.style")
    reward = make(node, "reward", {"task": TASK})
    torch.testing.assert_close(reward.score(ROLLOUTS).total_PK, torch.tensor([[1.15, 1.25], [1.15, 0.9]]))
    reward.close()


def test_a_users_own_sum(folder):
    option = (
        "defaults: [weighted, check@parts.a, math@parts.b, _self_]\n"
        "parts: {b: {on_error: '0'}}\nreward_weights: {a: 1, b: 0.5}\ncorrect_from: b\n"
    )
    node = reward_node(folder, "reward=mine", "reward.reward_weights.a=3", option=option)
    task = FixedPrompts(prompts=(prompt(0, answer="7"),))
    reward = make(node, "reward", {"task": task})
    rewards = reward.score(make_rollouts(["7", "7.0"], 2, prompts=task.prompts))
    assert rewards.total_PK.tolist() == [[2.75, 1.25]]
    assert rewards.correct_PK is not None and rewards.correct_PK.all()
    reward.close()


def test_python_from_the_command_line(folder):
    functions = [
        "reward.function=[my_module.style,my_module.fails]",
        "reward.reward_weights=[2,1]",
        "reward.on_error=0",
    ]
    node = reward_node(folder, "reward=python", *functions, "reward.correct_above=5")
    reward = make(node, "reward", {"task": TASK})
    rewards = reward.score(ROLLOUTS)
    assert rewards.total_PK.tolist() == [[4, 10], [4, 4]] and rewards.valid_PK.all()
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[False, True], [False, False]]
    reward.close()


@pytest.mark.parametrize(
    "option", ["check", "format", "length", "math", "overlong", "python", "reward_model", "rouge", "weighted"]
)
def test_the_file_lists_every_key_of_the_constructor(option):
    node = OmegaConf.to_container(OmegaConf.load(CONF / "reward" / f"{option}.yaml"))
    assert isinstance(node, dict)
    parameters = inspect.signature(get_class(node["_target_"]).__init__).parameters.values()
    assert set(node) == {"_target_", *(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)}
    assert not [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty]


def test_a_sum_says_what_its_parts_read():
    class Explained(Check):
        def explained(self, prompts):
            return [f"{len(prompts)} prompts"]

    task = FixedPrompts(prompts=PROMPTS)
    parts = {"a": Explained(task, mask_truncated_completions=False), "b": Check(task, mask_truncated_completions=False)}
    reward = WeightedSum(
        parts=parts, reward_weights={"a": 1.0, "b": 1.0}, correct_from=None, mask_truncated_completions=False
    )
    assert reward.explained(PROMPTS) == ["2 prompts"]


class Offering(Check):
    """A part with all that a reward may offer."""

    def __init__(self, number: int, calls_at_a_time: int = 1):
        super().__init__(TASK, mask_truncated_completions=False)
        self.number, self.calls_at_a_time, self.paused = number, calls_at_a_time, False

    def counters(self):
        return {"errors": self.number}

    def metrics(self):
        return {"cost": float(self.number)}

    def memory(self):
        return {"weights": self.number}

    def state_dict(self):
        return {"number": self.number} if self.number else {}

    def load_state_dict(self, state):
        self.number = state["number"]

    def pause(self):
        self.paused = True


def test_a_sum_offers_what_its_parts_offer():
    parts = {"a": Offering(1, calls_at_a_time=5), "b": Offering(0), "c": CHECK}
    reward = weighted(parts, dict.fromkeys(parts, 1.0))
    assert reward.counters() == {"a/errors": 1, "b/errors": 0} and reward.metrics() == {"a/cost": 1.0, "b/cost": 0.0}
    assert reward.memory() == {"a weights": 1, "b weights": 0} and reward.calls_at_a_time == 5
    reward.pause()
    assert parts["a"].paused and parts["b"].paused
    assert reward.state_dict() == {"a": {"number": 1}}
    reward.load_state_dict({"a": {"number": 7}})
    assert parts["a"].number == 7
    with pytest.raises(ConfigError, match=r"resume: parts with a state are a, in the checkpoint none; resume with"):
        reward.load_state_dict({})
    assert weighted({"c": CHECK}, {"c": 1.0}).state_dict() == {}


def test_checks_and_punishment_of_long_completions(folder):
    node = reward_node(folder, "reward=check_and_overlong", "+max_completion_length=2", "reward.parts.overlong.cache=1")
    rewards = make(node, "reward", {"task": TASK}).score(ROLLOUTS)
    assert rewards.parts["overlong"].tolist() == [[-1, -2], [-1, 0]] and rewards.correct_PK is not None


def test_a_sum_on_the_command_line(folder):
    """As conf/reward/weighted.yaml shows it."""
    parts = ["+reward@reward.parts.a=check", "+reward@reward.parts.b=length", "reward.parts.b.max=1"]
    weights = map(with_plus, ["reward.reward_weights.a=1", "reward.reward_weights.b=0.5"])
    node = reward_node(folder, "reward=weighted", *parts, *weights)
    rewards = make(node, "reward", {"task": TASK}).score(ROLLOUTS)
    assert list(rewards.parts) == ["a", "b"] and rewards.total_PK[0, 0] == 0.75 + 0.5 / 2
