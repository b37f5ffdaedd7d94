"""Quality of n samples, estimated without bias from m >= n samples."""

from collections import Counter
from collections.abc import Sequence


def pass_at(n: int, *, samples: int, correct: int) -> float:
    """pass@n: probability that n of the m ``samples``, drawn without replacement, include a correct one,
    1 - C(m-c, n) / C(m, n).

    Unbiased (Chen et al. 2021, 2107.03374). Computed as a product, since the binomials overflow. Raises ValueError if
    n > m: m samples cannot estimate pass@n then.
    """
    if not 1 <= n <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{n} of {samples} samples, {correct} correct: 1 <= n <= samples is needed")
    missed = 1.0
    for i in range(correct):  # C(m-c, n) / C(m, n) = Π (m-n-i) / (m-i)
        missed *= max(samples - n - i, 0) / (samples - i)
    return 1.0 - missed


def distinct_correct_of(n: int, *, samples: int, keys: Sequence[str]) -> float:
    """Expected number of distinct correct answers among n of the m ``samples``, drawn without replacement.

    ``keys`` are the answer keys of the correct samples; equal keys are the same answer. An answer that occurs c times
    is drawn with probability pass@n, and the expectation is the sum over answers.
    """
    return sum((pass_at(n, samples=samples, correct=count) for count in Counter(keys).values()), start=0.0)
