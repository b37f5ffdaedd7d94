import pytest

from dqo.answers.units import without_currency, without_units


@pytest.mark.parametrize("text", [r"\$18", "$18", "£18", "18€", "US$18", "USD 18", "Rs. 18", r"\text{\$}18", r"18\$"])
def test_currencies(text):
    assert without_currency(text) == "18"


@pytest.mark.parametrize(
    "text",
    [r"5\text{ cm}", "5 cm", "5cm", r"5 \text{ cm}^2", r"5\text{ km}/\text{h}", "5 square feet", "5 m", r"5^{\circ}",
     "5th", r"5^\circ C", "5 apples", r"5\text{ per hour}", r"5\text{ in}"],
)  # fmt: skip
def test_units_are_left_out(text):
    assert without_units(text) == ("5", False)


@pytest.mark.parametrize(
    "text", ["5m", "5 x", "2t", "3 in 5", "2 dozen", r"5\text{ or }", "5 tenths", "x cm", r"3\text{i}"]
)
def test_what_is_no_unit_stays(text):
    assert without_units(text) == (text, False)


@pytest.mark.parametrize("text", ["5%", r"5\%", "5 percent", r"5\text{ percent}", "5 pct", "5 percentage points"])
def test_a_per_cent_sign_is_told(text):
    assert without_units(text) == ("5", True)
