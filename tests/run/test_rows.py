"""Rows that the reward cannot judge are found before the first step."""

import pytest

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.run.rows import check_rows
from tests.helpers.composing import composed


class Stream:
    """A task of one's own without rows: only its held-out prompts can be listed."""

    def draw(self, cursor, count):
        raise NotImplementedError

    def held_out(self):
        return [Prompt(position=3, tokens=(1,), content="?", columns={"answer": "Paris"})]

    def check(self, prompt, text, finished):
        raise NotImplementedError

    def key(self, prompt, text):
        return text


class Rows(Stream):
    """A task of one's own with rows."""

    def __init__(self, *answers):
        self.kept = [(f"line {number}", {"answer": answer}) for number, answer in enumerate(answers, 1)]

    def rows(self):
        return self.kept

    def leave_out(self, rows):
        self.kept = [row for number, row in enumerate(self.kept) if number not in rows]


def test_a_bad_row_is_refused_with_its_place():
    with pytest.raises(ConfigError, match=r"line 2: .answer. is 'Paris'.*type reward.on_bad_answer=skip"):
        check_rows(composed("reward=math"), Rows("1", "Paris"))


def test_bad_rows_are_left_out_where_the_user_says_so():
    task = Rows("1", "Paris", "3 1/2", None)
    check_rows(composed("reward=math", "reward.on_bad_answer=skip"), task)
    assert [source for source, _ in task.kept] == ["line 1", "line 3"]


def test_a_part_of_a_sum_is_asked_too():
    config = composed("reward=math")
    parts = {"maths": dict(config.reward)}
    node = {"_target_": "dqo.reward.weighted.WeightedSum", "parts": parts, "reward_weights": {"maths": 1.0},
            "correct_from": None, "mask_truncated_completions": False}  # fmt: skip
    with pytest.raises(ConfigError, match=r"line 1: .answer. is null"):
        check_rows(config.model_copy(update={"reward": node}), Rows(None))


def test_a_reward_that_asks_nothing_reads_no_rows():
    check_rows(composed("reward=check"), Stream())


def test_a_task_without_rows_has_its_held_out_prompts_checked():
    with pytest.raises(ConfigError, match=r"held-out prompt 3: .answer. is 'Paris'"):
        check_rows(composed("reward=math"), Stream())
    with pytest.raises(ConfigError, match=r"Stream cannot leave rows out.*type reward.on_bad_answer=mask"):
        check_rows(composed("reward=math", "reward.on_bad_answer=skip"), Stream())
