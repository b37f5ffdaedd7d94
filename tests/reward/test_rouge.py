import pytest

from dqo.errors import ConfigError, StageError
from dqo.reward.rouge import Rouge, Variant
from dqo.stages import Reward
from tests.factories import make_rollouts
from tests.reward.tasks import FixedPrompts, prompt

PROMPTS = (prompt(3, references=["The cat sat.", "A dog barked!"]), prompt(4, references="a b c"))
TEXTS = ["the CAT sat", "a dog", "a c d", ""]
ROLLOUTS = make_rollouts(TEXTS, 2, prompts=PROMPTS, finished=[True, True, True, False])


def rouge(prompts=PROMPTS, **changes) -> Rouge:
    settings = {
        "variant": Variant.ROUGE_L, "reference_column": "references", "on_bad_answer": "raise", "correct_above": None,
        "mask_truncated_completions": False,
    } | changes  # fmt: skip
    return Rouge(FixedPrompts(prompts=tuple(prompts)), **settings)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("rouge_l", [[1.0, 0.8], [2 / 3, 0.0]]), ("rouge_1", [[1.0, 0.8], [2 / 3, 0.0]]),
        ("rouge_2", [[1.0, 2 / 3], [0.0, 0.0]]),
    ],
)  # fmt: skip
def test_the_best_of_the_references_counts(variant, expected):
    reward = rouge(variant=Variant(variant), correct_above=0.9)
    assert isinstance(reward, Reward)
    rewards = reward.score(ROLLOUTS)
    assert list(rewards.parts) == [variant]
    assert rewards.total_PK.tolist() == [pytest.approx(row) for row in expected]
    assert rewards.correct_PK is not None and rewards.correct_PK.tolist() == [[True, False], [False, False]]


def test_truncated_completions_can_be_masked():
    rewards = rouge(mask_truncated_completions=True).score(ROLLOUTS)
    assert rewards.valid_PK.tolist() == [[True, True], [True, False]] and rewards.parts["rouge_l"][1, 1].isnan()


ROWS = [
    ("a.jsonl, line 1", {"references": ["x y"]}), ("a.jsonl, line 2", {"references": None}),
    ("a.jsonl, line 3", {"references": ["", "..."]}), ("a.jsonl, line 4", {"references": {"x": 1}}),
    ("a.jsonl, line 5", {}),
]  # fmt: skip


def bad_rows(rows=ROWS, **changes):
    settings = {"variant": "rouge_l", "reference_column": "references", "on_bad_answer": "skip"} | changes
    return Rouge.bad_rows(rows, **settings)


def test_rows_without_a_reference_are_refused_left_out_or_kept(caplog):
    with pytest.raises(ConfigError) as refused:
        bad_rows(on_bad_answer="raise")
    assert str(refused.value) == (
        'a.jsonl, line 2: "references" is null, which has no word to compare with (4 of 5 rows are like that; the '
        "next: a.jsonl, line 3, a.jsonl, line 4, a.jsonl, line 5); type reward.on_bad_answer=skip to leave such rows "
        "out, reward.on_bad_answer=mask to ignore their completions, or reward.reference_column=NAME of another column"
    )
    assert list(bad_rows()) == [1, 2, 3, 4] and "4 of 5 rows are like that and left out" in caplog.text
    assert not bad_rows(on_bad_answer="mask") and not bad_rows(ROWS[:1], on_bad_answer="raise")


def test_a_column_that_is_not_there():
    message = "reward.reference_column=summary: there is no such column; there are references"
    with pytest.raises(ConfigError, match=message):
        bad_rows(reference_column="summary")
    with pytest.raises(ConfigError, match=message):
        rouge(reference_column="summary")


def test_a_drawn_row_without_a_reference():
    prompts = (prompt(3, references=["the cat sat"]), prompt(4, references=[]))
    rollouts = make_rollouts(TEXTS, 2, prompts=prompts)
    with pytest.raises(StageError, match=r"column references: \[\] has no word") as caught:
        rouge().score(rollouts)
    assert caught.value.positions == (4,)
    reward = rouge(on_bad_answer="mask")
    assert reward.counters() == {"rouge/bad_answers": 0}
    assert reward.score(rollouts).valid_PK.tolist() == [[True, True], [False, False]]
    assert reward.counters() == {"rouge/bad_answers": 2} and rouge().counters() == {}


def test_a_dry_run_shows_references():
    assert rouge().explained(PROMPTS) == ["reference 'the cat sat'", "reference 'a dog barked'"]
