"""What the paper (arXiv 2509.04784) says, held against the runs of ``scripts/reproduce.py``: one row a claim."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from reproduce_matrix import SAME_RATE
from reproduce_results import Difference, Runs, paired
from reproduce_tables import row, written


@dataclass(frozen=True)
class Claim:
    """A claim that a paired difference of two arms can test."""

    text: str
    paper: str  # its numbers
    arm: str
    against: str
    metric: str
    sign: int = 1  # 1: the difference is above ``margin``; -1: below
    margin: float = 0.0


LESS_COSTLY = -0.02  # two points of pass@1
UNGIVEN = "not given"
SAME = SAME_RATE.name  # the reward alone, at the learning rate of the other arms
GSM8K = "GSM8K 76.8 → 76.3"
CLAIMS = (
    Claim("more diverse than reward alone", "distinct-4 .32 → .42", "dpp alpha=1", SAME, "cosine_distance/correct"),
    Claim("… counted in correct answers", UNGIVEN, "dpp alpha=1", SAME, "distinct_correct"),
    Claim("pass@1 costs at most two points", GSM8K, "dpp alpha=1", SAME, "pass@1", margin=LESS_COSTLY),
    Claim("pass@10 is higher", "GSM8K 87.9 → 91.2", "dpp alpha=1", SAME, "pass@10"),
    Claim("the same with a gate: more correct answers", UNGIVEN, "dpp gated", SAME, "distinct_correct"),
    Claim("… pass@1 costs at most two points", UNGIVEN, "dpp gated", SAME, "pass@1", margin=LESS_COSTLY),
    Claim("… pass@10 is higher", UNGIVEN, "dpp gated", SAME, "pass@10"),
    Claim("the determinant finds more answers than pairwise distance, both gated", "figure 3", "dpp gated", "distance",
          "distinct_correct"),
    Claim("larger alpha: more diverse", "α .5 → 2: distinct-4 .69 → .75", "dpp alpha=2", "dpp alpha=0.5",
          "cosine_distance/correct"),
    Claim("larger alpha: lower quality", "α .5 → 2: reward 5.84 → 5.27", "dpp alpha=2", "dpp alpha=0.5", "pass@1", -1),
    Claim("the entropy baseline is above DQO on pass@1", "GSM8K 77.0 against 76.3", "entropy, correct", "dpp alpha=1",
          "pass@1"),
    Claim("… and on pass@10", "GSM8K 92.6 against 91.2", "entropy, correct", "dpp alpha=1", "pass@10"),
    Claim("DQO is above it in diversity", "distinct-4 .42 against .38", "dpp alpha=1", "entropy, correct",
          "cosine_distance/correct"),
    Claim("rewarding unlikely answers costs pass@1", "GSM8K 76.8 → 50.9", "unlikeliness", SAME, "pass@1", -1),
    Claim("… and is the most diverse", "distinct-4 .86 against .42", "unlikeliness", "dpp alpha=1",
          "cosine_distance/correct"),
)  # fmt: skip
ELSEWHERE = (
    ("0 ≤ c_i ≤ log(1 + k), Lemma 1", "held: `tests/dpp`, and sharper with a unit diagonal (docs/math.md)"),
    ("pairwise distance ends in a few far corners (figure 3)", "`scripts/reproduce_geometry.py`, above"),
    ("best of 10 with a reward model (Dolly 8.39 → 8.74)", "not tested here: no reward model of that size"),
    ("PPO with a critic and a reward model", "the table `scitldr`, on a tiny model"),
    ("CNN/DailyMail, Dolly, CommonGen; models of 1 B and more", "not tested here"),
)


def claims(found: Mapping[str, Runs]) -> str:
    """A markdown table of all claims; intervals hold for all of them together."""
    lines = [row(["claim", "paper", "here", "difference", "verdict"]), "|---" * 5 + "|"]
    for claim in CLAIMS:
        measured = paired(found.get(claim.arm, {}), found.get(claim.against, {}), claim.metric, len(CLAIMS))
        here = f"{claim.arm} − {claim.against}, {claim.metric}"
        lines.append(row([claim.text, claim.paper, here, written(measured), verdict(claim, measured)]))
    lines += [row([text, "", "", "–", answer]) for text, answer in ELSEWHERE]
    return "\n".join(lines)


def verdict(claim: Claim, measured: Difference) -> str:
    """held: the whole interval is on the claim's side of its margin; not held: the whole interval is on the other."""
    if math.isnan(measured.low):
        return "not tested here"
    low, high = sorted(claim.sign * (bound - claim.margin) for bound in (measured.low, measured.high))
    return "held" if low > 0 else "not held" if high < 0 else "open: the interval has both"
