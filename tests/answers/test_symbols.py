import pytest

from dqo.answers.symbols import in_latex


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("3½", "3 1/2"),
        ("−5", "-5"),
        ("–5", "-5"),
        ("2√3", r"2\sqrt{3}"),
        ("x²", "x^{2}"),
        ("11₂", "11_{2}"),
        ("5％", "5%"),
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\left(1,\,2\right)", "(1, 2)"),
        (r"\mathrm{cm}", r"\text{cm}"),
        (r"\text{13}", "13"),
        ("sqrt(2)", r"\sqrt{2}"),
        ("2pi", r"2\pi "),
        ("spin", "spin"),
        ("3–5", "3–5"),  # a range, not a difference
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_signs_and_careless_latex(text, latex):
    assert in_latex(text) == latex
