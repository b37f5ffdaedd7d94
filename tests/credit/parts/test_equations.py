import pytest

from dqo.credit.parts.equations import equations


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("So $x=3$, and 2 * 3 = 6.", ["x=3", "2*3=6"]),
        (r"\[ a + b \] then \( a+b \) and $$c$$", ["a+b", "c"]),
        ("48/2 = <<48/2=24>>24 clips", ["48/2=24"]),  # GSM8K
        ("She pays $12 + $6 = $18.", ["12+6=18"]),
        ("(2 + 3) * 4 = 20 and 3.5 × 2 = 7", ["(2+3)*4=20", "3.5×2=7"]),
        ("The answer is 5.", []),
        ("x = 5", []),
        ("$ $", []),
    ],
)
def test_equations_of_a_text(text, found):
    assert equations(text) == found


@pytest.mark.parametrize("text", ["1+" * 50_000, "\\(" * 50_000, "1" * 100_000, "(" * 100_000 + "=", "$$" * 50_000])
def test_a_text_that_is_made_to_be_slow_is_not(text):
    assert len(equations(text)) < 2
