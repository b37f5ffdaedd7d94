"""The metrics of an evaluation, by family: what ``eval.metrics`` chooses, and the names that ``objective`` may be.
Imports no torch; docs/evaluation.md says more about each."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["quality", "diversity", "form"]
Better = Literal["higher", "lower"]
Need = Literal["encoder", "correct", "nli", "judge", "novelty"]

PASS_AT = (1, 2, 5, 10, 20, 50, 100)  # pass@n is reported for these n and for the number of completions
DISTINCT_OF = 10  # ``distinct_correct`` is the expectation for this number of completions
COVERED = 0.5  # ``cover`` is the share of prompts of which at least this share of completions is correct
RAREFIED_TO = 5  # ``rarefaction`` counts the answers of this number of completions, or of all if there are fewer
USUAL = (  # families that training logs by default (conf/train.yaml)
    "reward", "pass", "distinct_correct", "cosine_distance", "logdet", "vendi", "distinct_1", "distinct_2",
    "distinct_4", "valid", "finished", "mean_length",
)  # fmt: skip
SCORERS = {  # what a metric asks beside the encoder, and what to type for it
    "nli": "eval.nli=FOLDER",
    "judge": "eval.judge.base_url=URL eval.judge.model=NAME",
    "novelty": "eval.novelty.classifier=FOLDER eval.novelty.reward_model=FOLDER",
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of a prompt's completions. Its name ends in ``@`` where a number follows: ``pass@`` stands for
    ``pass@1``, ``pass@2`` …"""

    family: str  # the name that ``eval.metrics`` chooses it by
    kind: Kind
    better: Better | None  # None: neither direction is better by itself
    text: str  # one line
    needs: tuple[Need, ...] = ()
    of_correct: bool = False  # also as NAME/correct, over the correct completions alone
    any_n: bool = False  # its expectation is the same for any number of completions
    of_means: bool = False  # computed from a mean over prompts: no prompt has it by itself


def _quality(family: str, text: str, *, any_n: bool = False, needs: tuple[Need, ...] = ()) -> Metric:
    return Metric(family=family, kind="quality", better="higher", text=text, any_n=any_n, needs=needs)


def _diversity(
    family: str, text: str, *, better: Better = "higher", any_n: bool = False, needs: tuple[Need, ...] = (),
    of_means: bool = False,
) -> Metric:  # fmt: skip
    return Metric(
        family=family, kind="diversity", better=better, text=text, any_n=any_n, needs=needs, of_correct=True,
        of_means=of_means,
    )  # fmt: skip


def _novelty(text: str) -> Metric:
    return Metric(family="noveltybench", kind="diversity", better="higher", text=text, needs=("novelty",))


METRICS = {
    "reward": _quality("reward", "mean reward of the valid completions", any_n=True),
    "reward_best": _quality("reward", "largest reward among the completions of a prompt (best of n)"),
    "pass@": _quality("pass", "chance that one of so many completions is correct", any_n=True, needs=("correct",)),
    "distinct_correct": _quality(
        "distinct_correct", f"distinct correct answers among {DISTINCT_OF} completions", needs=("correct",)
    ),
    "distinct_correct@": _quality(
        "distinct_correct", "distinct correct answers among so many completions (cover@n)", any_n=True,
        needs=("correct",),
    ),
    "cover@": _quality("cover", "share of prompts with at least this share of correct completions", needs=("correct",)),
    "cosine_distance": _diversity(
        "cosine_distance", "mean of 1 − cosine over all pairs of embeddings", any_n=True, needs=("encoder",)
    ),
    "logdet": _diversity("logdet", "log det(L + I) of the embeddings' cosines, in nats", needs=("encoder",)),
    "vendi": _diversity("vendi", "effective number of different completions (Vendi score)", needs=("encoder",)),
    "vendi@": _diversity("vendi@", "Vendi score of another order: large orders see common answers", needs=("encoder",)),
    "distinct_1": _diversity("distinct_1", "different words over all words"),
    "distinct_2": _diversity("distinct_2", "different 2-grams of words over all 2-grams"),
    "distinct_4": _diversity("distinct_4", "different 4-grams of words over all 4-grams"),
    "self_bleu_diversity": _diversity(
        "self_bleu_diversity", "1 − BLEU-4 of a completion against the others of its prompt"
    ),
    "self_rouge_diversity": _diversity("self_rouge_diversity", "1 − ROUGE-L over pairs of completions"),
    "ead": _diversity("ead", "different words over those expected of so many draws (EAD)"),
    "compression_ratio": _diversity(
        "compression_ratio", "bytes of the texts over their bytes after gzip", better="lower"
    ),
    "pcmd": _diversity("pcmd", "chance that two completions are different answers", any_n=True),
    "effective_modes": _diversity("pcmd", "1 / (1 − mean pcmd): equally common answers", any_n=True, of_means=True),
    "rarefaction@": _diversity("rarefaction", "distinct answers expected among so many completions", any_n=True),
    "nli_disagreement": _diversity(
        "nli_disagreement", "pairs that contradict less those that entail", any_n=True, needs=("nli",)
    ),
    "judge_diversity": _diversity("judge_diversity", "diversity as a language model judges it", needs=("judge",)),
    "judge_variance": Metric(
        family="judge_diversity", kind="diversity", better=None, needs=("judge",), of_correct=True,
        text="variance of the judge's answers over wordings of the question",
    ),
    "distinct_k": _novelty("classes of completions that say the same (NoveltyBench)"),
    "utility_k": _novelty("reward of the new classes, discounted by position (NoveltyBench)"),
    "compared/correct": Metric(
        family="", kind="diversity", better="higher", any_n=False, needs=("correct",),
        text="share of prompts with two or more correct completions",
    ),
    "valid": Metric(
        family="valid", kind="form", better="higher", any_n=True, text="share of completions that have a reward"
    ),
    "finished": Metric(
        family="finished", kind="form", better="higher", any_n=True,
        text="share of completions that ended by themselves, not cut by length",
    ),
    "mean_length": Metric(
        family="mean_length", kind="form", better=None, any_n=True, text="mean number of sampled tokens"
    ),
}  # fmt: skip
FAMILIES = tuple(dict.fromkeys(metric.family for metric in METRICS.values() if metric.family))


def find_family(chosen: str) -> str | None:
    """The family that a value of ``eval.metrics`` chooses: ``vendi@2`` is of ``vendi@``; None: there is none."""
    base, at, order = chosen.partition("@")
    if not at:
        return chosen if chosen in FAMILIES else None
    return "vendi@" if base == "vendi" and _is_order(order) else None


def vendi_orders(families: Sequence[str]) -> list[str]:
    """What follows ``vendi@`` in the chosen families: "2", "inf"."""
    return [each.partition("@")[2] for each in families if each.startswith("vendi@")]


def pass_sizes(completions: int) -> list[int]:
    """The n of pass@n for this number of completions."""
    return sorted({n for n in PASS_AT if n <= completions} | {completions})


def evaluation_metrics(completions: int, families: Sequence[str]) -> list[str]:
    """The names of an evaluation's metrics in the order they are shown, for this many completions of each prompt."""
    named = {
        "pass@": pass_sizes(completions), "distinct_correct@": [completions], "vendi@": vendi_orders(families),
        "rarefaction@": [min(RAREFIED_TO, completions)], "cover@": [COVERED],
    }  # fmt: skip
    chosen = {find_family(family) for family in families}
    names = {
        base: [f"{base}{number}" for number in named[base]] if base in named else [base]
        for base, metric in METRICS.items()
        if metric.family in chosen
    }
    of_correct = [f"{name}/correct" for base, each in names.items() if METRICS[base].of_correct for name in each]
    by_kind = {
        kind: [name for base, each in names.items() if METRICS[base].kind == kind for name in each]
        for kind in ("quality", "diversity", "form")
    }
    compared = ["compared/correct"] if of_correct else []
    return [*by_kind["quality"], *by_kind["diversity"], *of_correct, *compared, *by_kind["form"]]


def shown_of(names: Iterable[str], headline: Sequence[str]) -> list[str]:
    """The names that the console shows: first those of ``headline``, then those that ``eval.metrics`` added to the
    default, without NAME/correct."""
    given = [name for name in names if name not in ("n", "prompts")]
    chosen = [name for name in given if metric_of(name).family not in USUAL and not name.endswith("/correct")]
    return [*(name for name in headline if name in given), *chosen]


def metric_of(name: str) -> Metric:
    """The entry of ``METRICS`` for a name such as "pass@5" or "vendi/correct". Raises KeyError for an unknown name."""
    if name in METRICS:
        return METRICS[name]
    base, at, _ = name.removesuffix("/correct").partition("@")
    return METRICS[f"{base}{at}"]


def describe(name: str) -> str:
    """One line about a metric."""
    text = metric_of(name).text
    return f"{text}, of the correct completions" if name.endswith("/correct") and name not in METRICS else text


def needs(name: str) -> tuple[Need, ...]:
    """What a metric needs: without it the metric is undefined."""
    found = metric_of(name).needs
    return (*found, "correct") if name.endswith("/correct") and "correct" not in found else found


def needs_correct(name: str) -> bool:
    """Whether a metric is undefined where the reward does not say which completions are correct."""
    return "correct" in needs(name)


def needs_of(families: Sequence[str]) -> set[Need]:
    """All that the chosen families need."""
    chosen = {find_family(family) for family in families}
    return {need for metric in METRICS.values() if metric.family in chosen for need in metric.needs}


def comparable(name: str, n: int, other: int) -> bool:
    """Whether a metric over ``n`` completions of each prompt can be compared with the same metric over ``other``.

    Those that name their number can: ``pass@5`` is the same quantity for 10 and for 40 completions.
    """
    if name == "distinct_correct":
        return min(n, DISTINCT_OF) == min(other, DISTINCT_OF)
    return n == other or name in ("n", "prompts") or (metric_of(name).any_n and not name.endswith("/correct"))


def _is_order(text: str) -> bool:
    try:
        return float(text) > 0 and not math.isnan(float(text))
    except ValueError:
        return False
