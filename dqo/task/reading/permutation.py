"""A shuffled order of any number of rows without a table of them: each place in it is computed."""

from hashlib import blake2b

ROUNDS = 6


def shuffled(key: str, place: int, count: int) -> int:
    """The number at ``place`` of a permutation of 0 to ``count`` - 1 that ``key`` chooses; the same on every machine.

    A Feistel network over the next even number of bits permutes 0 to at most 4 * ``count`` - 1; a number of ``count``
    and more is permuted again until it is smaller (cycle walking: 4 times on average at most).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    while True:
        place = _feistel(key.encode(), place, half)
        if place < count:
            return place


def _feistel(key: bytes, number: int, half: int) -> int:
    """A permutation of the numbers of 2 * ``half`` bits."""
    size, mask = (half + 7) // 8, (1 << half) - 1
    left, right = number >> half, number & mask
    for turn in range(ROUNDS):
        hashed = blake2b(right.to_bytes(size, "big"), digest_size=size, key=blake2b(key, digest_size=32).digest(),
                         salt=bytes([turn])).digest()  # fmt: skip
        left, right = right, left ^ (int.from_bytes(hashed, "big") & mask)
    return left << half | right
