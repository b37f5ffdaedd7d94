"""Speed of the leave-one-out credits against k + 1 determinants and the Gram product, for docs/performance.md.

    python scripts/bench_credit.py --threads 1 --json credit.json

The three take turns; prints the medians of the rounds. Refuses to start on a busy machine.
"""

import statistics
import sys
import time
from collections.abc import Callable

import measuring
import torch
from torch import Tensor

from dqo.dpp import kernel_matrix, leave_one_out_credits

TARGETS = {8: 6.0, 16: 11.0, 64: 25.0}  # k: how many times faster than k + 1 determinants the credits must be
SECONDS = 3.0  # each k is measured for at least this long
GRAM_UP_TO = 16  # up to this k the credits must be no slower than the Gram product


def main() -> int:
    """Exit code: 0 if all targets are met, else 1."""
    parser = measuring.parser(__doc__, threads=1)
    parser.add_argument("--prompts", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 64])
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    print("  k  credits ms  k+1 dets ms  Gram ms  dets/credits  Gram/credits  target")
    rows = [measure(arguments.prompts, k, arguments.dim, arguments.rounds) for k in arguments.k]
    measuring.write(arguments.json, machine=machine, arguments=vars(arguments), rows=rows)
    return 0 if all(row["met"] for row in rows) else 1


def measure(prompts: int, k: int, dim: int, rounds: int) -> dict:
    """Median milliseconds and speed-ups for one k; prints them as a row."""
    torch.manual_seed(0)
    embeddings_PKD = torch.nn.functional.normalize(torch.randn(prompts, k, dim), dim=-1)
    kernel_PKK = kernel_matrix(embeddings_PKD)
    ways: dict[str, Callable[[], Tensor]] = {
        "credits": lambda: leave_one_out_credits(kernel_PKK, check=False),  # as training calls it
        "determinants": lambda: by_determinants(kernel_PKK),
        "gram": lambda: torch.bmm(embeddings_PKD, embeddings_PKD.mT),
    }
    warm = {name: way() for name, way in ways.items()}
    difference = (warm["credits"] - warm["determinants"]).abs().max().item()
    assert difference < 1e-4, f"credits differ from their definition by {difference}"
    times: dict[str, list[float]] = {name: [] for name in ways}
    while len(times["gram"]) < rounds or sum(map(sum, times.values())) < SECONDS:
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    ms = {name: 1000 * statistics.median(values) for name, values in times.items()}
    faster, gram = ms["determinants"] / ms["credits"], ms["gram"] / ms["credits"]
    met = faster >= TARGETS.get(k, 0) and (k > GRAM_UP_TO or gram >= 1)
    target = f"≥ {TARGETS.get(k, 0):g}×{', Gram ≥ 1×' if k <= GRAM_UP_TO else ''}: {'met' if met else 'MISSED'}"
    milliseconds = f"{ms['credits']:>10.2f}  {ms['determinants']:>11.1f}  {ms['gram']:>7.2f}"
    print(f"{k:>3}  {milliseconds}  {faster:>11.1f}×  {gram:>11.1f}×  {target}")
    return {"k": k, "ms": ms, "faster_than_determinants": faster, "faster_than_gram": gram, "met": met}


def by_determinants(kernel_PKK: Tensor) -> Tensor:
    """The credits by definition, (prompts, k): a determinant of the whole group, and one without each completion."""
    k = kernel_PKK.shape[-1]
    shifted_PKK = kernel_PKK + torch.eye(k)
    without_P = []
    for i in range(k):
        keep = [j for j in range(k) if j != i]
        without_P.append(torch.linalg.slogdet(shifted_PKK[:, keep][:, :, keep]).logabsdet)
    return torch.linalg.slogdet(shifted_PKK).logabsdet[:, None] - torch.stack(without_P, dim=1)


if __name__ == "__main__":
    sys.exit(main())
