import pytest

from dqo.answers.finding import (
    Found,
    after_marker,
    closing,
    formulas,
    in_boxes,
    in_maths,
    in_tags,
    unescaped,
    unwrapped,
    without_amounts,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{3} and \boxed{5}", Found("5", "3, 5")),
        (r"$\boxed{3}$, $\boxed{5}$ or $\boxed{7}$.", Found("7", "3, 5, 7")),
        (r"\boxed{3}. Wait, that is wrong. \boxed{5}", Found("5", "5")),
        (r"\boxed{\frac{1}{2}}", Found(r"\frac{1}{2}", r"\frac{1}{2}")),
        (r"\boxed{\{1, 2\}}", Found(r"\{1, 2\}", r"\{1, 2\}")),
        (r"\fbox{4} \boxed{}", Found("4", "4")),
        (r"\boxed 5$", Found("5", "5")),
        (r"write it in \boxed form", None),
        (r"\boxedtext{5}", None),
        (r"\boxed{4}, so \boxed{12", Found("", "")),
        ("no box", None),
    ],
)
def test_the_last_box_and_those_listed_before_it(text, found):
    assert in_boxes(text) == found


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("She pays $12 and then $6.", "She pays 12 and then 6."),
        ("It is $5$.", "It is $5$."),
        ("$5 + 3$ is 8", "$5 + 3$ is 8"),
        ("$12 + $6 = $18", "12 + 6 = 18"),
        (r"\$18 in all", "18 in all"),
        ("$x$ costs $5", "$x$ costs 5"),
    ],
)
def test_dollars_of_amounts_and_of_formulas(text, plain):
    assert without_amounts(text) == plain


def test_all_formulas_and_the_text_around_them():
    assert formulas(r"So $x$ is \(5\), or \[ 6 \], $$7$$ for $12.") == (
        ["x", "5", " 6 ", "7"],
        "So  ;  is  ; , or  ; ,  ;  for 12.",
    )


def test_formulas_between_dollars():
    assert in_maths(r"So $x$ is \(5\), or \[ 6 \]") == Found(" 6 ", "5,  6 ")
    assert in_maths("She pays $12 and then $6.") is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 72.", "72"),
        ("**Final Answer:** 3 1/2 cups. It was easy.", "3 1/2 cups"),
        ("The answer to the question is 36 because 6*6=36.", "36"),
        ("5 + 2 = 7\n#### 7", "7"),
        ("The answer is 1. No, the answer is 2.5.", "2.5"),
        ("no answer at all", None),
    ],
)
def test_what_follows_the_answer_is(text, answer):
    assert after_marker(text) == answer


def test_answer_tags():
    assert in_tags("<think>1</think><answer>2</answer><answer> 3 </answer>") == " 3 "
    assert in_tags("<answer>2") is None


def test_commands_that_a_careless_escape_has_broken():
    assert unescaped("\x08oxed{\x0crac{1}{2}\text{ m}}") == r"\boxed{\frac{1}{2}\text{ m}}"
    assert unescaped("a\tb") == "a\tb"


def test_the_brace_that_closes_another():
    assert closing(r"{a{b}\}}", 0) == 7
    assert closing("{a{b}", 0) is None


@pytest.mark.parametrize(
    "text",
    ["$5$", "$ 5 $", r"\(5\)", "**5**.", "{5}", r"\boxed{5}", '"5",', "$$5$$", r"\boxed{$5$}", r"\text{5}", "5;"],
)
def test_what_encloses_an_answer_says_nothing(text):
    assert unwrapped(text) == "5"
