"""What n samples are worth, estimated without bias from m of them."""

from collections import Counter
from collections.abc import Sequence


def pass_at(n: int, *, samples: int, correct: int) -> float:
    """Chance that n of the m ``samples``, drawn without replacement, hold a correct one: 1 - C(m-c, n) / C(m, n).

    Unbiased for pass@n (Chen et al. 2021, 2107.03374); as a product, since the binomials overflow. Raises ValueError
    where n > m: fewer samples than n say nothing about n.
    """
    if not 1 <= n <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{n} of {samples} samples, {correct} correct: 1 <= n <= samples is needed")
    missed = 1.0
    for i in range(correct):  # C(m-c, n) / C(m, n) = Π (m-n-i) / (m-i)
        missed *= max(samples - n - i, 0) / (samples - i)
    return 1.0 - missed


def distinct_correct_of(n: int, *, samples: int, keys: Sequence[str]) -> float:
    """Expected number of distinct correct answers among n of the m ``samples``, drawn without replacement.

    ``keys`` are those of the correct samples; equal keys are the same answer. An answer given c times is met with
    chance pass@n, and the expectation is the sum over answers: the closed form of drawing every subset.
    """
    return sum((pass_at(n, samples=samples, correct=count) for count in Counter(keys).values()), start=0.0)
