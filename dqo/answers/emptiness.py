"""Whether a text says anything at all."""

import unicodedata

# Unicode categories of which nothing can be read: control, zero-width, white space, marks and variation selectors
# without a letter
NOTHING = {"Cc", "Cf", "Zl", "Zp", "Zs", "Mn", "Me"}
BLANK = "\u2800\u3164\u115f\u1160\uffa0"  # letters and symbols that are blank: of Braille and Hangul


def is_empty(text: str) -> bool:
    """Whether there is nothing to read in a text."""
    return all(unicodedata.category(char) in NOTHING or char in BLANK for char in text)
