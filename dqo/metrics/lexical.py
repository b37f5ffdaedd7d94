"""Lexical diversity of the completions of one prompt that is less dependent on their length than distinct-n."""

import gzip
import math
from collections.abc import Sequence

from dqo.metrics.diversity import ngrams

VOCABULARY = 50_257  # of GPT-2


def ead(texts: Sequence[str], n: int = 1, vocabulary: int = VOCABULARY) -> float:
    """Expectation-adjusted distinct (Liu et al. 2022, 2202.13587): different n-grams of the group over the number
    expected of as many uniform draws from the vocabulary, N / (V (1 - ((V-1)/V)^C)). Higher is more diverse.

    Above 0, up to about 1 + C / 2V, which all different n-grams reach. NaN for fewer than two texts, and if every text
    is shorter than n words. V is a constant, not the number of words seen: the authors advise the largest vocabulary
    of the models that are compared, and Kirk et al. (2310.06452), who average n = 1 to 5, take GPT-2's. At V = 50,257 a
    group of a few thousand words is nearly distinct-n.
    """
    grams = ngrams(texts, n)
    if len(texts) < 2 or not grams:
        return math.nan
    expected = -vocabulary * math.expm1(len(grams) * math.log1p(-1 / vocabulary))
    return len(set(grams)) / expected


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts, joined by spaces, over their bytes after gzip (Shaib et al. 2024, 2403.00553). **Higher is
    less diverse**: above 0, about 2 for ten different texts of English prose, a thousand at most.

    Grows with the number of texts and their length: compare only groups of about equal size. Below about 200 bytes
    gzip's own 18 bytes decide. The authors' package runs gzip twice, which makes its ratio a little smaller. NaN for
    fewer than two texts, and if there are no characters.
    """
    if len(texts) < 2 or not any(texts):
        return math.nan
    data = " ".join(texts).encode("utf-8", "surrogatepass")  # JSON may hold half a surrogate pair
    return len(data) / len(gzip.compress(data, mtime=0))
