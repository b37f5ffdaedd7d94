"""Money, per cent and units: what may stand beside a number without changing it."""

import re

from dqo.answers.finding import PUNCTUATION

CURRENCY = r"(?:(?:US|CA|AU|NZ|HK|C|A)?\\?[$£€¥₹₽₩฿₺₫₱₴]|\\pounds|\\euro(?:\{\})?|\\text\{\s*\\?[$£€¥]\s*\})"
BEFORE_AMOUNT = re.compile(rf"(?:{CURRENCY}|(?<![A-Za-z])(?:USD|EUR|GBP|CNY|RMB|JPY|INR|Rs\.?))\s*(?=-?[\d.(]|\\frac)")
AFTER_AMOUNT = re.compile(rf"(?<=[\d}}])\s*(?:{CURRENCY}|\\?¢)")
PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\{\s*(?:\\?%|per ?cent|pct|percentage(?: points?)?)\.?\s*\}"
    r"|(?<![A-Za-z])(?:per ?cent|pct|percentage(?: points?)?)\.?)$"
)
DEGREES = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree)(?:\s*(?:\\text\{\s*)?[CFK](?![a-z])\s*\}?)?")
TRIGONOMETRY = re.compile(r"\\(?:arc)?(?:sin|cos|tan|cot|sec|csc)")
ORDINAL = re.compile(r"(?<=\d)\s*\^?\{?\s*(?:\\text\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])\s*\}?\s*\}?$")
POWER = r"(?:\s*\^\s*(?:\{-?\d\}|-?\d)|(?<=[a-z])[23](?!\d))?"
TEXT_UNIT = re.compile(rf"(?:(?<=[\d)}}])|(?<=\\pi))\s*((?:[/*]?(?:\\cdot)?\s*\\text\{{[^{{}}]*\}}{POWER}\s*)+)")
INCHES = re.compile(rf"(?<=[\d)}}])\s*\\text\{{\s*in\.?\s*\}}{POWER}$")
WORD = re.compile(r"[A-Za-z]+")
WORD_UNIT = re.compile(
    rf"(?<=[\d)}}%])\s+([A-Za-z][A-Za-z'-]*{POWER}(?:(?:\s+|\s*/\s*)[A-Za-z][A-Za-z'-]*{POWER}){{0,4}})$"
)
GLUED_UNIT = re.compile(
    rf"(?<=\d)(?:[cmk]?m\^\{{?[23]\}}?|(?:cm|mm|km|kg|mg|ml|mL|ft|lbs?|mph|hrs?|mins?|secs?){POWER})$"
)
SINGLE_LETTER_UNITS = {"m", "g", "s", "h", "L"}  # 5 m; but 5 x and 5m are products
NO_UNIT = re.compile(  # words behind a number that change it, or that mean another one
    r"and|or|to|in|of|out|plus|minus|times|hal(?:f|ves)|(?:third|quarter|fourth|fifth|sixth|eighth|tenth|hundredth)s?|"
    r"dozens?|hundreds?|thousands?|(?:m|b|tr)illions?|between|mod|modulo|base|if|for|where|when|not|no|than|more|less|"
    r"remainder|over|squared|cubed|factorial|choose|by|with|is|are|equals|from|through|until|pi|about|approximately|"
    r"each|every|(?-i:[einxyz])",
    re.IGNORECASE,
)


def without_currency(text: str) -> str:
    """The text without the signs and names of currencies beside numbers."""
    return AFTER_AMOUNT.sub("", BEFORE_AMOUNT.sub("", text))


def without_units(text: str) -> tuple[str, bool]:
    """The text without units, and whether a per cent sign stood at its end."""
    percent = False
    if not TRIGONOMETRY.search(text):
        text = DEGREES.sub("", text)
    while True:
        before = text
        text = ORDINAL.sub("", text)
        if PERCENT.search(text):
            text, percent = PERCENT.sub("", text), True
        text = TEXT_UNIT.sub(lambda match: match[0] if _means_more(match[1]) else "", INCHES.sub("", text))
        text = GLUED_UNIT.sub("", text)
        if (words := WORD_UNIT.search(text)) and not _means_more(words[1]) and _is_numeric(text[: words.start()]):
            text = text[: words.start()]
        text = PUNCTUATION.sub("", text.strip())
        if text == before:
            return text, percent


def _means_more(unit: str) -> bool:
    """Whether the words are more than a unit: "in", "thirds", "x"."""
    words = WORD.findall(unit.replace(r"\text", "").replace(r"\cdot", ""))
    if r"\text" not in unit and len(words) == 1 and len(words[0]) == 1:
        return words[0] not in SINGLE_LETTER_UNITS
    return any(NO_UNIT.fullmatch(word) for word in words)


def _is_numeric(text: str) -> bool:
    """Whether the text is a number or an assignment of one, without variables that a word might belong to."""
    value = re.sub(r"^[A-Za-z]\s*=\s*", "", text)
    return not re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|sqrt|pi|times|cdot)(?![A-Za-z])", "", value))
