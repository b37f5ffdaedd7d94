"""Names of an evaluation's metrics, which ``objective`` may be. Imports no torch."""

PASS_AT = (1, 2, 5, 10, 20, 50, 100)  # pass@n is reported for these n and for the number of completions
FORM = ("valid", "finished", "mean_length")
DIVERSITY = ("cosine_distance", "logdet", "vendi", "distinct_1", "distinct_2", "distinct_4")
OF_CORRECT = ("pass@", "distinct_correct")  # how the names begin that need to know which completions are correct


def pass_sizes(completions: int) -> list[int]:
    """The n of pass@n for this number of completions."""
    return sorted({n for n in PASS_AT if n <= completions} | {completions})


def evaluation_metrics(completions: int) -> list[str]:
    """The names under "before" and "after" in summary.json, for ``eval.n`` completions."""
    quality = [
        "reward", "reward_best", *(f"pass@{n}" for n in pass_sizes(completions)), "distinct_correct",
        f"distinct_correct@{completions}",
    ]  # fmt: skip
    return [*quality, *DIVERSITY, *(f"{name}/correct" for name in (*DIVERSITY, "compared")), *FORM]


def needs_correct(name: str) -> bool:
    """Whether a metric is undefined where the reward does not say which completions are correct."""
    return name.startswith(OF_CORRECT) or name.endswith("/correct")
