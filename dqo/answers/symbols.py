"""Unicode signs and careless LaTeX, in the LaTeX that math-verify reads."""

import re
import unicodedata

SIGNS = {
    "\u2212": "-", "\ufe63": "-", "\uff0d": "-", "\u2010": "-", "\u2011": "-",
    "×": r"\times ", "✕": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "∞": r"\infty ", "±": r"\pm ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "°": r"^{\circ}", "º": r"^{\circ}", "…": "...",
    "“": '"', "”": '"', "‘": "'", "’": "'", "⟨": r"\langle ", "⟩": r"\rangle ",
}  # fmt: skip
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
RAISED, LOWERED = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+"), re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
FRACTIONS = {
    char: f" {numerator}/{denominator}"
    for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"
    for numerator, _, denominator in [unicodedata.normalize("NFKC", char).partition("\u2044")]
}
SPACES = re.compile(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![A-Za-z])|\\hspace\*?\{[^{}]*\}|[\s\u200b\u2060\ufeff]+")
STYLES = re.compile(
    r"\\(?:displaystyle|textstyle|limits|left(?![a-z])|right(?![a-z])|[bB]igg?[lr]?(?![a-z])|phantom\{[^{}]*\})\.?"
)
TEXTS = re.compile(r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)|math(?:rm|bf|it|sf|tt)|[mh]box|operatorname)\s*\{")
OLD_TEXTS = re.compile(r"\{\\(?:rm|bf|it|tt|sf)\s+([^{}]*)\}")
NUMBER_IN_TEXT = re.compile(r"\\text\{\s*(-?[\d.,/]+)\s*\}")
CONSTANT_IN_TEXT = re.compile(r"\\mathrm\{\s*([ei])\s*\}")
FRACTION_NAMES = re.compile(r"\\[dtcs]frac(?![A-Za-z])")
SHORT_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]+)\}|(\d))\s*(?:\{([^{}]+)\}|(\d))")
SLASH_FRACTION = re.compile(r"(?<![\d}])\\frac\s*(\d+)\s*/\s*(\d+)")
ROOTS = re.compile(r"\\?(?<![A-Za-z])sqrt\s*(?:\(([^()]*)\)|(\d+))")
NAMES = re.compile(
    r"(?<![\\A-Za-z])(pi|theta|infinity|sin|cos|tan|cot|sec|csc|log|ln|arcsin|arccos|arctan)(?![A-Za-z])"
)
INFINITY = re.compile(r"\\infinity|\\inf(?![A-Za-z])")
DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")


def in_latex(text: str) -> str:
    """The text in plain LaTeX: ``3½`` is ``3 1/2``, ``√2`` is ``\\sqrt{2}``, ``\\dfrac12`` is ``\\frac{1}{2}``."""
    return _tidy(_ascii(text))


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    for char, plain in FRACTIONS.items():
        text = text.replace(char, plain)
    text = RAISED.sub(lambda match: f"^{{{match[0].translate(SUPERSCRIPTS)}}}", text)
    text = LOWERED.sub(lambda match: f"_{{{match[0].translate(SUBSCRIPTS)}}}", text)
    text = ROOT.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text)
    for _ in range(2):  # NFKC turns other widths and forms into these signs
        for char, plain in SIGNS.items():
            text = text.replace(char, plain)
        text = unicodedata.normalize("NFKC", text)
    return re.sub(r"^[–—]\s*(?=[\d\\.])", "-", text)  # elsewhere a dash is a range


def _tidy(text: str) -> str:
    if r"\begin" not in text:
        text = DOUBLED.sub(r"\\", text)
    text = STYLES.sub("", text)
    text = SPACES.sub(" ", text).replace("{:}", ":").replace(r"\colon", ":").replace(r"\varnothing", r"\emptyset")
    text = CONSTANT_IN_TEXT.sub(r"\1", text)
    text = TEXTS.sub(r"\\text{", OLD_TEXTS.sub(r"\\text{\1}", text))
    text = NUMBER_IN_TEXT.sub(r"\1", text)
    text = INFINITY.sub(r"\\infty ", ROOTS.sub(lambda match: rf"\sqrt{{{match[1] or match[2]}}}", text))
    text = NAMES.sub(lambda match: rf"\{match[1].replace('infinity', 'infty')} ", text)
    text = SLASH_FRACTION.sub(r"\\frac{\1}{\2}", FRACTION_NAMES.sub(r"\\frac", text))
    return SHORT_FRACTION.sub(lambda match: rf"\frac{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}", text)
