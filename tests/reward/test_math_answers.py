import json
from pathlib import Path

import pytest
import torch

from dqo.errors import ConfigError, StageError
from dqo.records import Prompt
from dqo.reward.math_answers import Math
from dqo.row_checks import ChecksRows
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import FixedPrompts, prompt

HANG = "it is $100000000!$"  # sympy computes this number, which never ends, inside C code


@pytest.fixture
def build():
    built = []

    def build(prompts, **changes) -> Math:
        settings = {
            "answer_column": "answer", "timeout": 5.0, "on_error": "raise", "on_bad_answer": "raise",
            "mask_truncated_completions": False
        } | changes  # fmt: skip
        built.append(Math(FixedPrompts(prompts=tuple(prompts)), **settings))
        return built[-1]

    yield build
    for reward in built:
        reward.close()


def rewards_of(reward: Math, prompts: list[Prompt], *groups: list[str], **kwargs):
    texts = [text for group in groups for text in group]
    return reward.score(make_rollouts(texts, len(groups[0]), prompts=prompts, **kwargs))


def test_equal_answers_of_any_form(build):
    prompts = [prompt(0, answer="72"), prompt(1, answer=r"\frac{1}{2}"), prompt(2, answer=1000)]
    reward = build(prompts)
    rewards = rewards_of(
        reward,
        prompts,
        ["The answer is 72.", r"so $\boxed{72}$", "71", "I do not know"],
        ["0.5", r"\boxed{\frac{2}{4}}", "2", "1/2"],
        ["1,000", "$10^3$", "100", "#### 1000"],
    )
    assert rewards.total_PK.tolist() == [[1, 1, 0, 0], [1, 1, 0, 1], [1, 1, 0, 1]]
    assert torch.equal(rewards.total_PK, rewards.parts["math"]) and rewards.valid_PK.all()
    assert rewards.correct_PK is not None and torch.equal(rewards.correct_PK, rewards.total_PK == 1)
    assert reward.counters() == {"math/errors": 0, "math/timeouts": 0, "math/unparsed": 1, "math/restarts": 0}
    assert isinstance(reward, Reward)


def test_a_box_that_the_prompt_has_opened_for_the_model(build):
    messages = ({"role": "user", "content": "6 * 12?"}, {"role": "assistant", "content": r"It is $\boxed{"})
    prompts = [prompt(0, messages, answer="72")]
    assert rewards_of(build(prompts), prompts, ["72}$", "71}$"]).total_PK.tolist() == [[1, 0]]


def test_answers_as_data_sets_write_them(build):
    cases = [
        ("(1, 2)", "$(1, 2)$", "$2$"),
        ("x^2+1", "$1+x^2$", "$x^2$"),
        (r"2\sqrt{3}", r"$\sqrt{12}$", "2"),
        (r"\$18.90", "18.90", "18"),
        ("5 dollars", "5", "6"),
        ("She has <<48/2=24>>24 and 48+24 = <<48+24=72>>72.\n#### 72", "72", "24"),
        (r"it is $\frac{3}{4}$", "0.75", "3"),
        ("50%", r"$50\%$", "5"),
    ]
    prompts = [prompt(i, answer=answer) for i, (answer, _, _) in enumerate(cases)]
    assert rewards_of(build(prompts), prompts, *[list(texts) for _, *texts in cases]).total_PK.tolist() == [[1, 0]] * 8


def test_a_hang_stops_the_run_or_invalidates_its_completion_only(build):
    prompts = [prompt(5, answer="72"), prompt(6, answer="8")]
    groups = ["72", HANG, "71"], ["8", HANG, "8"]
    with pytest.raises(StageError, match=r"math-verify failed on 'it is .100000000!.': no answer within 0.5") as caught:
        rewards_of(build(prompts, timeout=0.5), prompts, *groups)
    assert caught.value.positions == (5,)
    reward = build(prompts, timeout=0.5, on_error="mask")
    rewards = rewards_of(reward, prompts, *groups)
    assert rewards.total_PK.tolist() == [[1, 0, 0], [1, 0, 1]]
    assert rewards.valid_PK.tolist() == [[True, False, True]] * 2 and rewards.parts["math"][:, 1].isnan().all()
    assert reward.counters() == {"math/errors": 2, "math/timeouts": 2, "math/unparsed": 0, "math/restarts": 2}


def test_a_number_for_hangs_and_equal_texts_hang_once(build):
    prompts = [prompt(5, answer="72")]
    reward = build(prompts, timeout=0.5, on_error=-0.5)
    rewards = rewards_of(reward, prompts, [HANG, "72", HANG, HANG])
    assert rewards.total_PK.tolist() == [[-0.5, 1, -0.5, -0.5]] and rewards.valid_PK.all()
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[False, True, False, False]]
    assert (reward.counters()["math/errors"], reward.counters()["math/restarts"]) == (3, 1)


def test_truncated_completions_are_masked(build):
    prompts = [prompt(0, answer="7")]
    rewards = rewards_of(build(prompts, mask_truncated_completions=True), prompts, ["7", "7"], finished=[True, False])
    assert rewards.valid_PK.tolist() == [[True, False]] and rewards.total_PK.tolist() == [[1, 0]]
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False]]


def test_a_masked_completion_is_not_judged(build):
    """A masked completion that would hang, or has no answer, is not counted."""
    prompts = [prompt(0, answer="7")]
    reward = build(prompts, mask_truncated_completions=True)
    rewards = rewards_of(reward, prompts, ["7", HANG, "I do not know"], finished=[True, False, False])
    assert rewards.parts["math"].isnan().tolist() == [[False, True, True]]
    assert not any(reward.counters().values())


def test_a_right_answer_that_cannot_be_read_names_its_prompt_whatever_on_error_is(build):
    reward = build([prompt(8, answer="7")], on_error="mask")
    for answer, message in [("Paris", "no answer in 'Paris'"), ("", "no answer"), ([7], r"\[7\]"), (None, "None")]:
        prompts = [prompt(8, answer="7"), prompt(9, answer=answer)]
        with pytest.raises(StageError, match=f"{message}.*type reward.on_bad_answer=mask") as caught:
            rewards_of(reward, prompts, ["7"], ["7"])
        assert caught.value.positions == (9,)


def test_completions_of_a_bad_right_answer_are_masked_and_counted(build):
    prompts = [prompt(8, answer="7"), prompt(9, answer="Paris"), prompt(10, answer=None)]
    reward = build(prompts, on_bad_answer="mask")
    rewards = rewards_of(reward, prompts, ["7", "8"], ["Paris", "7"], ["7", "7"])
    assert rewards.valid_PK.tolist() == [[True, True], [False, False], [False, False]]
    assert rewards.total_PK.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert reward.counters()["math/bad_answers"] == 4 and reward.counters()["math/errors"] == 0


ROWS = [("my.jsonl, line 1", {"answer": "7"}), ("my.jsonl, line 2", {"answer": r"x^2+1"}), ("my.jsonl, line 3", {})]
BAD = [*ROWS, ("my.jsonl, line 4", {"answer": "Paris"}), ("my.jsonl, line 5", {"answer": [1, 2]})]


def bad_rows(rows, **changes):
    return Math.bad_rows(rows, **{"answer_column": "answer", "timeout": 5.0, "on_bad_answer": "raise"} | changes)


def test_all_right_answers_are_read_at_once_and_the_first_bad_one_is_named():
    assert isinstance(Math, ChecksRows)
    assert bad_rows(ROWS[:2]) == ()
    with pytest.raises(ConfigError) as caught:
        bad_rows(BAD)
    message = str(caught.value)
    assert message.startswith('my.jsonl, line 3: "answer" is null, which holds no answer to maths that can be read')
    assert "(3 of 5 rows are like that; the next: my.jsonl, line 4, my.jsonl, line 5)" in message
    assert "type reward.on_bad_answer=skip" in message and "reward.on_bad_answer=mask" in message


def test_bad_rows_are_left_out_or_kept_and_the_log_says_how_many(caplog):
    assert bad_rows(BAD, on_bad_answer="skip") == [2, 3, 4]
    assert "3 of 5 rows are like that and left out" in caplog.text
    assert bad_rows(BAD, on_bad_answer="mask") == ()
    assert "3 of 5 rows are like that and kept" in caplog.text
    with pytest.raises(ConfigError, match=r"answer_column=gold: there is no such column; there are answer"):
        bad_rows(BAD, answer_column="gold")


def test_an_answer_that_the_parser_crashes_on_takes_no_neighbour_with_it():
    rows = [(f"line {n}", {"answer": answer}) for n, answer in enumerate(["1+1", "(" * 1900, "x+2"])]
    assert bad_rows(rows, on_bad_answer="skip") == [1]


def test_a_reward_says_what_right_answers_are_read_as(build):
    prompts = [prompt(n, answer=answer) for n, answer in enumerate(["7", "8", "3 1/2", r"\$18", "50%"])]
    assert build(prompts).explained(prompts) == [
        "right answer '3 1/2' is read as 7/2",
        r"right answer '\\$18' is read as 18",
        "right answer '50%' is read as 50 %",
    ]  # fmt: skip


def test_a_column_that_is_not_there_is_found_at_construction(build):
    with pytest.raises(ConfigError, match=r"reward.answer_column=gold: there is no such column; there are answer"):
        build([prompt(0, answer="7")], answer_column="gold")


def test_gsm8ks_own_solutions_are_right(build):
    path = Path(__file__).parents[2] / "../shared/data/gsm8k/test.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data folder")
    rows = [json.loads(line) for line in path.read_text().splitlines()[:100]]
    prompts = [prompt(i, answer=row["answer"].rpartition("#### ")[2]) for i, row in enumerate(rows)]
    texts = [[row["answer"], "The answer is -12345."] for row in rows]
    assert rewards_of(build(prompts), prompts, *texts).total_PK.tolist() == [[1, 0]] * 100
