import pytest

from dqo.errors import ConfigError, StageError
from dqo.reward.format import Format
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import prompt

CATASTROPHE = "(a|a)+b"  # 2^n ways to fail on "aaa…cb"
BAD = "a" * 40 + "cb"
PROMPTS = (prompt(3), prompt(4))


def form(**changes) -> Format:
    settings = {
        "pattern": None, "tags": None, "timeout": 5.0, "on_error": "raise", "correct_above": None,
        "mask_truncated_completions": False,
    } | changes  # fmt: skip
    return Format(**settings)


def scores(reward: Format, texts, prompts=PROMPTS) -> list[float]:
    return reward.score(make_rollouts(texts, 2, prompts=prompts[: len(texts) // 2])).parts["format"].flatten().tolist()


def test_a_pattern_matches_the_whole_completion():
    reward = form(pattern=r"Answer: .+", correct_above=0.5)
    assert isinstance(reward, Reward)
    assert scores(reward, ["Answer: 3\n4", "Well. Answer: 3", "answer: 3", ""]) == [1, 0, 0, 0]
    rewards = reward.score(make_rollouts(["Answer: 3", "3"], 2, prompts=PROMPTS[:1]))
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("<think>a\nb</think>\n<answer>3</answer>\n", True),
        ("<think></think><answer></answer>", True),
        ("<think>a</think> so <answer>3</answer>", False),
        ("<answer>3</answer><think>a</think>", False),
        ("<think>a<think>b</think><answer>3</answer>", False),
        ("<think>a</think><answer>3</answer><answer>4</answer>", False),
        ("<think>a < b <b>c</b></think><answer>3</answer>", True),
        ("<think>a</think><answer>3", False),
    ],
)
def test_tags(text, fits):
    assert scores(form(tags=["think", "answer"]), [text, text])[0] == float(fits)


def test_tags_take_linear_time():
    long = "<think>" + "a <" * 20_000
    assert scores(form(tags=["think", "answer"]), [long, f"{long}</think><answer>1</answer>"]) == [0, 1]


def test_the_prefill_counts_as_the_beginning():
    chat = prompt(3, ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>"}))
    assert scores(form(tags=["think"]), ["a</think>", "<think>a</think>"], (chat,)) == [1, 0]


def test_a_pattern_that_takes_too_long():
    with pytest.raises(StageError, match=r"longer than reward.timeout=0.05 s on .*; type a pattern without") as caught:
        scores(form(pattern=CATASTROPHE, timeout=0.05), ["ab", BAD])
    assert caught.value.positions == (3,)
    reward = form(pattern=CATASTROPHE, timeout=0.05, on_error="mask")
    assert reward.counters() == {"format/timeouts": 0}
    rewards = reward.score(make_rollouts(["ab", BAD], 2, prompts=PROMPTS[:1]))
    assert rewards.valid_PK.tolist() == [[True, False]] and reward.counters() == {"format/timeouts": 1}
    assert scores(form(pattern=CATASTROPHE, timeout=0.05, on_error=-1.0), ["ab", BAD]) == [1, -1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"reward.pattern and reward.tags: neither is given; type reward.tags=\[think,answer\]"),
        ({"pattern": "a", "tags": ["b"]}, "both are given"),
        ({"tags": []}, "neither is given"),
        ({"pattern": "(a"}, r"reward.pattern=\(a: is no regular expression \(missing \)"),
    ],
)
def test_mistakes(keys, message):
    with pytest.raises(ConfigError, match=message):
        form(**keys)
