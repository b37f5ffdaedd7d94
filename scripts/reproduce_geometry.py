"""Determinant against pairwise distance: where a softmax policy over cities ends that learns from one of them alone.

    python scripts/reproduce_geometry.py            # half a minute on one core

The policy has a free probability for each of the largest 164 cities of dqo's list and no other reward. A group is k
independent draws; the policy follows the natural gradient of the expected score of a group (every city's credit given
the k - 1 others, averaged over drawn groups), from uniform probabilities. Two spaces: places on the map (two numbers),
and MiniLM's embeddings of the names (384).
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from reproduce_encoder import minilm
from reproduce_tables import number, row
from torch import Tensor

import dqo
from dqo.dpp import kernel_matrix

CITIES = 164
GROUPS = 64  # drawn for each update
DRAWN = 4000  # groups for the final numbers
Credit = Callable[[Tensor], Tensor]  # cities of the k - 1 others (groups, k - 1) → credit of each city (groups, cities)


def main() -> None:
    """Print one table a space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    names, map_ND = largest_cities()
    for space, points_ND, sigmas in (
        ("the map", map_ND, (0.1, 0.3)), ("MiniLM, 384 dimensions", encoded(names), (0.3, 0.6)),
    ):  # fmt: skip
        distances_NN = torch.cdist(points_ND, points_ND)
        credits = {"distance": pairwise(distances_NN), "squared distance": pairwise(distances_NN.square())}
        for sigma in sigmas:
            kernel_NN = kernel_matrix(points_ND[None], kind="rbf", sigma=sigma)[0]
            credits[f"determinant, rbf, sigma = {sigma}"] = determinant(kernel_NN)
        if points_ND.shape[1] > 2:
            credits["determinant, cosine"] = determinant(kernel_matrix(points_ND[None], kind="cosine")[0])
        print(f"\n{space}: {CITIES} cities, k = {options.k}, {options.updates} updates, {options.seeds} seeds\n")
        print(table(credits, names, distances_NN, options), flush=True)


def table(credits: dict[str, Credit], names: list[str], distances_NN: Tensor, options: argparse.Namespace) -> str:
    """A row a credit: mean over the seeds, and the first seed's most likely cities."""
    headings = ["effective cities", "with 1 % or more", "distinct of k", "mean distance of two", "most likely"]
    lines = [row(["", *headings]), "|---" * (len(headings) + 1) + "|"]
    uniform_N = torch.full((CITIES,), 1 / CITIES, dtype=torch.float64)
    found = {"uniform": [uniform_N]}
    for name, credit in credits.items():
        found[name] = [learned(credit, options.k, options.updates, seed) for seed in range(options.seeds)]
    for name, policies in found.items():
        numbers = torch.tensor([summary(policy_N, distances_NN, options.k) for policy_N in policies]).mean(0).tolist()
        top = policies[0].topk(5).indices.tolist()
        likely = "–" if name == "uniform" else ", ".join(f"{names[i]} {policies[0][i]:.2f}" for i in top)
        lines.append(row([name, *map(number, numbers), likely]))
    return "\n".join(lines)


def learned(credit: Credit, k: int, updates: int, seed: int) -> Tensor:
    """Probabilities of the cities after training, averaged over the last fifth of the updates.

    The natural policy gradient of a softmax policy is the expected credit of each city: log-probabilities grow by the
    rate times that. The rate falls to 0.
    """
    generator = torch.Generator().manual_seed(seed)
    logits_N = torch.zeros(CITIES, dtype=torch.float64)
    total_N, last = torch.zeros(CITIES, dtype=torch.float64), updates // 5
    for update in range(updates):
        policy_N = logits_N.softmax(0)
        others = policy_N.multinomial(GROUPS * (k - 1), replacement=True, generator=generator).view(GROUPS, k - 1)
        advantage_N = credit(others).mean(0)
        logits_N += 5.0 * (1 - update / updates) * (advantage_N - policy_N @ advantage_N) / advantage_N.std()
        if update >= updates - last:
            total_N += policy_N / last
    return total_N


def pairwise(distances_NN: Tensor) -> Credit:
    """``credit=distance``: mean distance to the others; of squares that of ``credit.metric=cosine``, twice."""
    return lambda others: distances_NN[others].mean(1)


def determinant(kernel_NN: Tensor) -> Credit:
    """``credit=dpp``: log(1 + L_yy - L_yS (I + L_SS)⁻¹ L_Sy), what a city adds to the log-determinant of the others."""

    def credit(others: Tensor) -> Tensor:
        between_GSN = kernel_NN[others]
        inside_GSS = between_GSN.gather(2, others[:, None, :].expand(-1, others.shape[1], -1))
        inside_GSS = inside_GSS + torch.eye(others.shape[1], dtype=kernel_NN.dtype)
        explained_GN = (between_GSN * torch.linalg.solve(inside_GSS, between_GSN)).sum(1)
        return (1 + kernel_NN.diagonal() - explained_GN).log()

    return credit


def summary(policy_N: Tensor, distances_NN: Tensor, k: int) -> list[float]:
    """Exponential of the entropy; cities with a probability of 1 % or more; expected distinct cities of k draws; mean
    distance of two draws."""
    entropy = -(policy_N * policy_N.clamp(min=1e-300).log()).sum()
    distinct = (1 - (1 - policy_N) ** k).sum()
    distance = policy_N @ distances_NN @ policy_N
    return [entropy.exp().item(), float((policy_N >= 0.01).sum()), distinct.item(), distance.item()]


def largest_cities() -> tuple[list[str], Tensor]:
    """Names, and places on the map in units of 90 degrees: x 0 to 4, y 0 to 2 without the poles."""
    path = Path(dqo.__file__).parent / "data" / "cities.csv"
    with path.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda each: -int(each["population"]))[:CITIES]
    places = [[float(each["longitude"]) / 90 + 2, float(each["latitude"]) / 90 + 1] for each in rows]
    return [each["name"] for each in rows], torch.tensor(places, dtype=torch.float64)


def encoded(names: list[str]) -> Tensor:
    """MiniLM's embeddings, of length 1."""
    return minilm().encode_texts(names).double()


if __name__ == "__main__":
    main()
