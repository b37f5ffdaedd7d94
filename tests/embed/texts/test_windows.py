import math

import pytest
import torch

from dqo.embed.texts.windows import average, windows_of


def words(texts):
    return [len(text.split()) for text in texts]


def characters(texts):
    return [len(text) for text in texts]


def test_a_text_that_fits_is_its_own_window():
    given = {"one two": 2, "": 0}
    assert windows_of(given, words, 2) == {"one two": (["one two"], [2]), "": ([""], [0])}


@pytest.mark.parametrize("length", [11, 19, 20, 100, 1001])
def test_windows_are_equal_overlap_by_an_eighth_and_leave_nothing_out(length):
    text = "".join(chr(ord("a") + n * n % 26) for n in range(length))
    windows, tokens = windows_of({text: length}, characters, 10)[text]
    assert tokens == characters(windows)
    assert max(tokens) <= 10 and max(tokens) - min(tokens) <= 1
    starts = [math.floor(n * 0.875 * length / (1 + 0.875 * (len(windows) - 1))) for n in range(len(windows))]
    assert [text[start : start + n] for start, n in zip(starts, tokens, strict=True)] == windows
    ends = [start + n for start, n in zip(starts, tokens, strict=True)]
    assert ends[-1] == length and all(start < end for start, end in zip(starts[1:], ends, strict=False))
    assert len(windows) <= math.ceil(length / (0.875 * 8)) + 1


def test_the_densest_part_decides_on_the_number():
    text = "a b c d e f g h " + "x" * 84
    windows, tokens = windows_of({text: 9}, words, 4)[text]
    assert max(tokens) <= 4
    assert windows[0].startswith("a b") and windows[-1].endswith("xx")


def test_texts_are_counted_together_and_cut_as_each_alone():
    texts, calls = ["ab " * 30, "c " * 50, "d e"], []

    def count(parts):
        calls.append(len(parts))
        return words(parts)

    alone = {text: windows_of({text: len(text.split())}, words, 4)[text] for text in texts}
    assert windows_of({text: len(text.split()) for text in texts}, count, 4) == alone
    assert calls[0] == 8 + 13  # the first round of both long texts in one call


def test_there_are_no_more_windows_than_characters():
    windows, tokens = windows_of({"abc": 5}, lambda texts: [5 for _ in texts], 3)["abc"]
    assert len(windows) == len(tokens) == 3


def test_average_is_by_tokens_and_of_length_1():
    vectors_WD = torch.eye(3)
    expected_D = torch.tensor([3.0, 4.0, 0.0]) / 5
    torch.testing.assert_close(average(vectors_WD, [3, 4, 0]), expected_D)
    assert average(torch.full((2, 3), torch.nan), [1, 1]).isnan().all()
