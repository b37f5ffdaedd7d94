import math

import pytest

from dqo.metrics.noveltybench import distinct_k, partition, same_if_short, score_of, utility_k, without_emphasis


def unused(one: str, other: str) -> bool:
    raise AssertionError("short texts need no classifier")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**Paris**", "Paris"),
        ("I say: **Paris**.", "I say: Paris."),
        ("***Paris***, _France_ and __Rome__", "Paris, France and Rome"),
        ("`Paris`\n", "Paris"),
        ("**Paris", "Paris"),  # cut at the longest completion
        ("* Paris\n* Rome", "* Paris\n* Rome"),  # a list
        ("2*3*4 = 24, 2 * 3 = 6", "2*3*4 = 24, 2 * 3 = 6"),
        ("snake_case and a ____ blank", "snake_case and a ____ blank"),
        ("", ""),
        ("***", "***"),
    ],
)
def test_emphasis_is_removed_and_nothing_else(text, expected):
    assert without_emphasis(text) == expected


def test_emphasis_of_a_megabyte_takes_no_time():
    assert len(without_emphasis("*a " * 300_000)) == 600_000 - 1
    assert without_emphasis("*" * 1_000_000)


def test_short_texts_are_the_same_if_half_of_the_longer_ones_words_are_common():
    assert same_if_short("Paris", "paris") is True
    assert same_if_short("Paris, France", "Paris") is False  # "paris," is another word
    assert same_if_short("go to Paris", "Paris now") is False  # 2 · 1 < 3
    assert same_if_short("see Paris", "Paris now") is True
    assert same_if_short("no no no no", "no") is False  # words count once
    assert same_if_short("", " ") is True
    assert same_if_short("one two three four five six", "one") is None
    assert same_if_short("one two three four five", "one two three") is True


def test_partition_compares_with_the_first_member_of_a_class():
    """ "a b" is like "b c", which is like "c d", which is not like "a b"."""
    assert partition(["a b", "b c", "c d", "a x"], unused) == [0, 0, 1, 0]
    asked = []

    def same(first: str, text: str) -> bool:
        asked.append((first[0], text[0]))
        return first[1] == text[1]

    texts = [f"{name}{kind} two three four five six" for name, kind in ("1a", "2a", "3b", "4a", "5b")]
    assert partition(texts, same) == [0, 0, 1, 0, 1]
    assert asked == [("1", "2"), ("1", "3"), ("1", "4"), ("1", "5"), ("3", "5")]


def test_markdown_does_not_make_a_class():
    assert partition(["**Paris**", "Paris", "*Paris*", "Lima"], unused) == [0, 0, 0, 1]


def test_distinct_k_counts_classes():
    assert distinct_k([0, 1, 0, 2]) == 3.0
    assert math.isnan(distinct_k([]))


def test_utility_by_hand():
    """Weights 1, .8, .64; the second answer repeats the first."""
    assert utility_k([0, 0, 1], [10, 9, 5]) == pytest.approx((10 + 0.64 * 5) / 2.44)
    assert utility_k([0, 0, 1], [10, math.nan, 5]) == utility_k([0, 0, 1], [10, 9, 5])
    assert math.isnan(utility_k([0, 1], [10, math.nan])) and math.isnan(utility_k([], []))
    assert utility_k([0, 1, 2], [10, 10, 10]) == pytest.approx(10.0)


def test_scores_are_1_to_10_and_a_threshold_belongs_to_the_lower_one():
    assert [score_of(reward) for reward in (-99.0, -7.71875, -7.7, -6.0, -2.046875, -2.0)] == [1, 1, 2, 3, 9, 10]
