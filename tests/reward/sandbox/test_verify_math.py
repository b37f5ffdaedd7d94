r"""Right answers and completions as people and models write them, from public reports: (right answer, text, equal?).

In the comments: MV = huggingface/Math-Verify, HM = hendrycks/math, EH = EleutherAI/lm-evaluation-harness, others by
name; # is the number of the issue or pull request. "own" cases were found while these were tried.
"""

import subprocess
import sys

import pytest

from dqo.reward.sandbox.verify_math import judge, read_golds

PERCENT = [
    ("50%", r"\boxed{50\%}", True),  # HM#21: MATH's own is_equiv("50%", "50\%") is False
    ("50%", r"\boxed{50}", True),  # HM#21, MV tests/test_all.py test_percent_notation: the sign may be left out
    ("50", r"\boxed{50\%}", True),  # inspect_ai#3782
    ("50%", r"\boxed{0.5}", True),  # MV test_percent_notation: a per cent is a hundredth
    ("50%", r"\boxed{\frac{1}{2}}", True),  # own
    ("0.5", r"\boxed{50\%}", True),  # own
    ("50", r"\boxed{0.5}", False),  # MV test_percent_notation
    ("0.28", r"\boxed{28}", False),  # MV test_percent_notation
    (r"28\%", r"\boxed{28 \text{ percent}}", True),  # MV test_percent_notation
    (r"28\%", "The answer is 28 percent.", True),  # MV test_percent_notation
    (r"28\%", r"\boxed{28 pct}", True),  # MV test_percent_notation, there marked as failing
    (r"28\%", r"$\boxed{28}\%$", True),  # MV test_percent_notation
    ("12.5%", r"\boxed{12.5\%}", True),  # own
    ("12.5%", r"\boxed{12.5}", True),  # own: math-verify drops the sign of integers only
    ("12.5%", r"\boxed{\frac18}", True),  # own
    ("4 4/9%", r"\boxed{\frac{40}{9}\%}", True),  # MV#81 test_mixed_number_percentage_applies_to_complete_value
    ("5%", r"\boxed{5000\%}", False),  # own
    ("50%", r"\boxed{50\text{ percentage points}}", True),  # own
]
MIXED_NUMBERS = [
    ("3 1/2", r"\boxed{\frac{7}{2}}", True),  # issue 17 of this project
    ("3 1/2", r"\boxed{2}", False),  # issue 17 of this project
    ("3 1/2", r"\boxed{3}", False),  # MV#81: the whole number alone
    ("5/4", "1 1/4", True),  # MV#34
    ("2.5", r"\boxed{2\frac{1}{2}}", True),  # MV#34
    ("2.5", "$2\frac{1}{2}$", True),  # MV#34, as typed there: \f is a form feed
    (r"3\frac12", r"\boxed{3.5}", True),  # MV#34, Latex-Sympy-Calculator#26
    ("40/9", "The answer is 4 4/9.", True),  # MV#81
    ("4", "The answer is 4 4/9.", False),  # MV#81
    ("-4 4/9", r"\boxed{-\frac{40}{9}}", True),  # MV#81
    ("1 000 4/9", r"\boxed{\frac{9004}{9}}", True),  # MV#81
    ("10", r"\boxed{4 10/3}", False),  # MV#81: no mixed number, and not its last number either
    ("4", r"\boxed{4 4/0}", False),  # MV#81
    ("2", r"\boxed{2 2/3}", False),  # MV#81
    ("103/9", "$11 + 4/9$", True),  # MV#81 test_explicit_addition_and_subtraction_remain_distinct
    ("19 19/20", r"\boxed{399/20}", True),  # Khan/khan-exercises#116556
    ("11/2", r"\boxed{5.5}", True),  # Khan/khan-exercises#135416
    ("3½", r"\boxed{\frac72}", True),  # own
    (r"1 \frac{1}{2}", "1.5", True),  # Luce-Org/lucebox#383
    ("7/2", r"\boxed{3\,\tfrac{1}{2}}", True),  # own
]
GROUPS = [
    ("7425000", r"\boxed{7,425,000}", True),  # MV test_number_extraction
    ("1000", r"\boxed{1 000}", True),  # MV test_number_extraction
    ("1000.99", r"\boxed{1,000.99}", True),  # MV test_number_extraction
    ("14916", r"\boxed{14{,}916}", True),  # MV test_all.py, a MATH solution
    (r"11,\! 111,\! 111,\! 100", r"\boxed{11111111100}", True),  # rasbt/reasoning-from-scratch#133
    (r"1\,234", r"\boxed{1234}", True),  # own: math-verify reads 235
    ("1234", r"\boxed{1\!,234}", True),  # own
    ("12", r"\boxed{1,2}", False),  # own
    ("1.234", r"\boxed{1234}", False),  # own
    ("1234.5", r"\boxed{1.234,5}", False),  # own: refused, since 1.234,5 may be two numbers
    ("(1, 234)", r"\boxed{(1,234)}", True),  # huggingface/lighteval#510: intervals and numbers with commas
    ("1, 234", r"\boxed{1234}", False),  # huggingface/lighteval#510
    ("100000", r"\boxed{1,00,000}", True),  # own
    (r"3{,}5", r"\boxed{3.5}", True),  # own: a decimal comma
    ("4", r"So \boxed{004}. The remainder is 004. **Final Answer** \boxed{004}", True),  # MV#44
]
MONEY = [
    ("29", "the total cost of Rory's delivery order is $29.00.", True),  # EH#3214
    ("18", r"**Answer: \$18 per day.**", True),  # vllm-project/tpu-inference#2318
    ("18", r"\boxed{\$18}", True),  # issue 17 of this project
    (r"\$18", r"\boxed{18}", True),  # issue 17 of this project
    ("$18", r"\boxed{18.00}", True),  # Luce-Org/lucebox#383
    ("70000", r"\boxed{\$70,000}", True),  # EH#1204
    (r"\$18.90", r"\boxed{18}", False),  # own
    ("£5", r"\boxed{5}", True),  # inspect_ai#3782
    ("1000.99", "the number is not 10 which is 1,000.99€", True),  # MV test_number_extraction
    ("1000.99", r"\boxed{1,000.99\$}", True),  # MV test_number_extraction
    ("18 dollars", r"\boxed{18}", True),  # own
    ("-5", r"\boxed{-\$5}", True),  # SheetJS/sheetjs#1877
    ("2000000", r"\boxed{\$2 \text{ million}}", True),  # own
    ("6", "She pays $12 and then $6.", True),  # own: these dollars enclose no formula
]
UNITS = [
    ("64", r"\boxed{64 \text{ square feet}}", True),  # openai/simple-evals, its prompt for judging equality
    ("72 degrees", r"\boxed{72}", True),  # openai/simple-evals, likewise
    (r"90^\circ", r"\boxed{90}", True),  # MV test_all.py, a MATH answer
    ("30", r"\boxed{30^{\circ}}", True),  # QwenLM/Qwen2.5-Math#29
    ("1/3", r"\boxed{\frac{1}{3} \textbf{meters}}", True),  # MV test_latex_notation
    ("5 cm", r"\boxed{5\,\mathrm{cm}}", True),  # own
    ("100", r"\boxed{100 \text{ cm}^2}", True),  # own
    ("60", r"\boxed{60\text{ km}/\text{h}}", True),  # own
    (r"\pi", r"\boxed{\pi \text{ rad}}", True),  # promptfoo#9142
    ("5 apples", r"\boxed{5}", True),  # own
    ("2t", r"\boxed{2}", False),  # own: math-verify takes t for tonnes
    ("5x", r"\boxed{5}", False),  # own
    ("5", r"\boxed{3 \text{ out of } 5}", False),  # own
    ("3", r"\boxed{3 \text{ or } 4}", False),  # own
    ("12th", r"\boxed{12}", True),  # MATH's normalisation of \mathrm{th}
]
BOXES = [
    ("3", r"the answer is \boxed{2}. wait, actually \boxed{3}", True),  # EvolvingLMMs-Lab/lmms-eval#1511
    ("2", r"the answer is \boxed{2}. wait, actually \boxed{3}", False),  # EvolvingLMMs-Lab/lmms-eval#1511
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}}", True),  # EvolvingLMMs-Lab/lmms-eval#1511: nested braces
    ("840", r"could answer therefore\boxed{840}.,but\n**Final Answer**\n\boxed{840}", True),  # MV#44
    ("5", r"\fbox{5}", True),  # THUDM/slime#2150
    ("3, 5, 7", r"\boxed{3}, \boxed{5}, \boxed{7}", True),  # EH#3644, EH#3652
    ("42", r"Thus the answer is \[ \boxed{42} \]", True),  # EH#2552
    ("[2,5)", r"The domain is \boxed{[2,5)}", True),  # EH#3644
    ("4", r"Mark your solution with \boxed. **Answer:** 4.", True),  # EH#3477, EH#3643
    ("5", r"\boxed 5", True),  # HM's last_boxed_only_string
    ("5", r"\boxed{5}. I put it in \boxed{}.", True),  # own
    ("12", r"so it is \boxed{12", False),  # own: cut by length, it might have become 123
    ("5", b"\\x08oxed{5}".decode("unicode_escape"), True),  # own: \b of a careless escape
    ("73", "residents who own all four of the things is **73**.\n\n---\n\n✅ Final Answer: **73**", True),  # MV#76
    ("2", r"we have $x=8$, and $x= -6$, so the sum is $8+(-6) = \boxed{2}$.", True),  # dhcode-cpp/X-R1#53
]
FORMULAS = [
    ("13", r"\boxed{\text{13}}", True),  # MV#37
    (r"\left( 3, \frac{\pi}{2} \right)", r"\boxed{(3, \frac{\pi}{2})}", True),  # QwenLM/Qwen2.5-Math#29
    ("4", r"\boxed{4\sqrt(2)}", False),  # MV#41
    (r"4\sqrt{2}", r"\boxed{4\sqrt(2)}", True),  # MV#41
    (r"10 - 2\sqrt{5}", "**Answer:** 10 - 2√5", True),  # huggingface/open-r1#503
    (r"\sqrt{17}", r"\boxed{4.123105625617661}", True),  # MV#48
    (r"\dfrac{\pi}{2}", r"\boxed{pi/2}", True),  # MV#69
    (r"-2\pi", r"\boxed{-2*pi}", True),  # MV#69
    (r"\frac{1}{2004!}", r"\boxed{\frac{1}{2006!}}", False),  # MV#14
    (r"\frac{1}{2^{99}}", r"\boxed{\frac{1}{2^{98}}}", False),  # MV#14
    ("12:00", r"\boxed{1:00}", False),  # MV#14
    ("3:00", r"\boxed{3}", False),  # own
    ("3:2", r"\boxed{3 : 2}", True),  # own
    (r"\pm 2021", r"\boxed{2021}", False),  # MV#14
    (r"1 - \frac{1}{\mathrm{e}}", r"\boxed{1 + \frac{1}{\mathrm{e}}}", False),  # MV#14
    (r"19, 46, \text{ and } 82", r"\boxed{21, 36, and 82}", False),  # MV#14
    (r"1, 2, \ldots, n", r"\boxed{1, 3, 5, \ldots, 2n-1}", False),  # MV#14: dots cannot be read
    ("D = (0, 1)", r"\boxed{D = (0, 1.5)}", False),  # MV#14
    (r"\frac{1}{12}", r"\boxed{0.0833333333333333}", True),  # MV#2
    (r"(1,\frac{9}{2})", r"\boxed{(1,4.5)}", True),  # MV#2
    (r"\frac{x+2}{7}", r"\boxed{\frac{x}{7}+\frac{2}{7}}", True),  # MV#2
    (r"\tan^2(y)+1", r"\boxed{\sec^2(y)}", True),  # MV#2
    ("34x+45y-20z+100=0", r"\boxed{-34x-45y+20z-100=0}", True),  # MV#2
    ("33.3", r"\boxed{\frac{100}{3}}", False),  # MV#2: how far it was rounded is not known
    (r"3x+4y+14=0", r"\boxed{3x-y+13=0}", False),  # MV#60
    ("2x+4y-3=0", r"\boxed{y = -\frac{1}{2}x + \frac{3}{4}}", True),  # MV#26
    (r"\frac{63}{400}", r"\boxed{\frac{64}{400}}", False),  # huggingface/open-r1#566
    (r"[0, \\frac{1}{2}]", r"\boxed{[0, \frac{1}{2}]}", True),  # SynthLabsAI/big-math#1: doubled backslashes
    ("1,-2", r"\boxed{-2,1}", True),  # EH#3652: in any order
    ("(1,-2)", r"\boxed{(-2,1)}", False),  # own
    ("52_8", r"\boxed{528}", False),  # rasbt/reasoning-from-scratch#133
    ("2516_8", r"\boxed{2516}", True),  # EH#3785
    ("2516_8", r"\boxed{2516_{7}}", False),  # own
    (r"0.\overline{3}", r"\boxed{\frac{1}{3}}", True),  # own
    ("1.5e3", r"\boxed{1.5\times10^3}", True),  # own
    ("1e-7", r"\boxed{2e-7}", False),  # own: math-verify rounds both to 0
    ("10", r"\boxed{2x = 10}", False),  # own, scitix/sieval#26: math-verify takes the right side
    ("3", r"\boxed{n = 3k}", False),  # scitix/sieval#26
    ("5", r"\boxed{x = 5}", True),  # MV test_latex_notation
    ("−5", r"\boxed{-5}", True),  # own: the minus sign of Unicode
    (r"x \in [1,2]", r"\boxed{[1,2]}", True),  # MV#25
    ("(-∞, 3)", r"\boxed{(-\infty, 3)}", True),  # own
    ("X", r"\boxed{x}", False),  # own: math-verify makes all letters small
    (r"\sin 30^\circ", r"\boxed{\frac12}", True),  # own
    (r"\frac{1}{0}", r"\boxed{\frac{2}{0}}", False),  # own
    ("0.333333", r"\boxed{\frac13}", True),  # MV grader.py
    ("1/3", r"\boxed{0.33}", False),  # own
]
WORDS = [
    (r"\text{Evelyn}", r"\boxed{Evelyn}", True),  # QwenLM/Qwen2.5-Math#29
    (r"\text{Evelyn}", r"\boxed{\text{Briana}}", False),  # MV test_all.py, a MATH answer
    ("A", r"\boxed{A}", True),  # MV#16
    ("(B)", r"\boxed{\text{(B)}}", True),  # own
    (r"\text{(C)}", r"\boxed{C}", True),  # own
    ("B", r"\boxed{B. 12}", True),  # own
    ("B", r"\boxed{\text{B) twelve}}", True),  # own
    ("B", r"\boxed{A. 12}", False),  # own
    (r"\text{even}", r"\boxed{\text{odd}}", False),  # own
    ("3:00 PM", r"\boxed{3{:}00\text{ p.m.}}", True),  # own
    ("3:00 PM", r"\boxed{3:00 \text{ a.m.}}", False),  # own
]
CASES = [*PERCENT, *MIXED_NUMBERS, *GROUPS, *MONEY, *UNITS, *BOXES, *FORMULAS, *WORDS]


@pytest.mark.parametrize(("answer", "completion", "equal"), CASES, ids=repr)
def test_answers_that_users_reported(answer, completion, equal):
    verdict = judge(answer, completion)
    assert verdict["correct"] is equal, verdict
    if answer not in (r"1, 2, \ldots, n", r"\frac{1}{0}"):
        assert verdict["answer_parsed"]


@pytest.mark.parametrize(
    "answer",
    ["Paris", "", "yes", "nan", "N/A", "two", "no solution", "half", "3 in 5", "2024-01-05", "1.234,5", "3 5/2", "1 2",
     "0.333...", "5 ft 3 in", "Room 12 in Paris", r"\frac{1}{0}", r"\boxed{12", "((((", "?"],
)  # fmt: skip
def test_right_answers_that_are_refused_rather_than_read_wrongly(answer):
    assert read_golds([answer]) == [None]


def test_what_right_answers_are_read_as():
    read = {"3 1/2": "7/2", r"\$18": "18", "50%": "50 %", "12 cm": "12", "So 3 + 4 = 7": "7", "a #### 1,234": "1234",
            "(B)": "B", r"\text{Evelyn}": "evelyn", "3:00 PM": "3:00 pm", "3:2": "3:2", "1011_2": "1011 of base 2",
            "1, 2": "{1, 2}", r"it is $\frac{3}{4}$": "3/4", r"so \boxed{5}": "5",
            "She has 5. The answer is 6 apples.": "6"}  # fmt: skip
    assert dict(zip(read, read_golds(list(read)), strict=True)) == read


def test_the_process_that_compares_imports_no_torch():
    code = "import sys, dqo.reward.sandbox.verify_math; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
