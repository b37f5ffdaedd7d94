"""The runs of each stage of ``scripts/reproduce.py``, in the order in which they are started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce_matrix import FACTORS, PREPARED, Arm, Table

QUIET = (
    "log.live=false", "log.every=20", "log.completions=false", "log.tensorboard=false", "checkpoint.every=0",
)  # fmt: skip
DECODINGS = (
    "temperature=[0.7,1.0,1.3]", "top_p=[0.9,1.0]", "min_p=[0.0,0.1]",
    "eval.metrics=[pass,distinct_correct,cosine_distance]",
)  # fmt: skip
DECODED = "eval.json"  # dqo-eval writes it last
CPU = ".cpu"  # after a run's name: a line for each process, CPU seconds with those of its children


@dataclass(frozen=True)
class Job:
    """One run of ``dqo-train`` or ``dqo-eval``."""

    table: str
    name: str  # to print
    seed: int
    factor: float  # of the table's learning rate
    folder: Path
    arguments: tuple[str, ...]  # of ``python -m dqo.cli``
    seconds: float  # expected
    trains: bool = True
    done: str = "summary.json"  # the file that is written last
    program: tuple[str, ...] = ("-m", "dqo.cli")

    @property
    def is_done(self) -> bool:
        """Whether the run has ended."""
        return (self.folder / self.done).exists()


def preparations(table: Table, seeds: Sequence[int], runs: Path) -> list[Job]:
    """What the table's runs of these seeds need, in the order in which it has to be made."""
    jobs = []
    for made in (each for each in table.prepared if each.seed is None or each.seed in seeds):
        folder = runs / "prepared" / made.name
        resumed = ["resume=auto"] if made.arguments[0] in ("train", "rm") else []
        where = (f"run_dir={folder}", *resumed) if made.done else ()
        arguments = _filled((*made.arguments, *where), runs)
        jobs.append(Job(table.name, made.name, 0, 1.0, folder, arguments, made.seconds, False, made.done, made.program))
    return jobs


def selection_jobs(table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path) -> list[Job]:
    """The runs that choose each arm's learning rate; none for a table with the task's rate."""
    if table.learning_rate is None:
        return []
    jobs = []
    for seed in seeds:
        for factor in FACTORS:
            for arm in (arm for arm in arms if arm.factor is None):
                folder = runs / "select" / table.name / f"{arm.folder}_x{factor:g}_seed={seed}"
                jobs.append(_job(table, arm, seed, factor, folder, ("eval.every=0", "checkpoint.final=false"), runs))
    return jobs


def main_jobs(
    table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path, factors: Mapping[str, float]
) -> list[Job]:
    """The runs of the table itself, seeds in the outer loop. ``factors``: of arms whose learning rate was chosen."""
    jobs = []
    for seed in seeds:
        for arm in arms:
            factor = factor_of(arm, factors)
            folder = main_folder(table, arm, seed, runs, factor)
            more = (f"eval.every={table.every}", f"checkpoint.final={str(arm.keeps_policy).lower()}")
            jobs.append(_job(table, arm, seed, factor, folder, more, runs))
    return jobs


def decoding_jobs(
    table: Table, arms: Sequence[Arm], seeds: Sequence[int], runs: Path, factors: Mapping[str, float]
) -> list[Job]:
    """Evaluations of the final policies that were kept, with each decoding; of those that have ended."""
    jobs = []
    for seed in seeds:
        for arm in arms:
            factor = factor_of(arm, factors)
            policy = main_folder(table, arm, seed, runs, factor)
            if arm.keeps_policy and (policy / "policy").exists():
                folder = decoding_folder(table, arm, seed, runs, factor)
                anew = (str(policy), f"n={table.n}", f"prompts={table.prompts}", *DECODINGS, f"run_dir={folder}")
                arguments = ("eval", *([f"resume={folder}"] if (folder / "completions").exists() else anew))
                name = f"{arm.name}, decodings"
                jobs.append(Job(table.name, name, seed, factor, folder, arguments, 60, trains=False, done=DECODED))
    return jobs


def factor_of(arm: Arm, chosen: Mapping[str, float]) -> float:
    """The factor of the table's learning rate that an arm is trained with. ``chosen``: by name of the arm."""
    return chosen.get(arm.name, 1.0) if arm.factor is None else arm.factor


def main_folder(table: Table, arm: Arm, seed: int, runs: Path, factor: float) -> Path:
    """Where a run of the table itself is."""
    rate = "" if table.learning_rate is None else f"_x{factor:g}"
    return runs / "main" / (table.runs or table.name) / f"{arm.folder}{rate}_seed={seed}"


def decoding_folder(table: Table, arm: Arm, seed: int, runs: Path, factor: float) -> Path:
    """Where the evaluation of a run's final policy with each decoding is."""
    return runs / "decoding" / table.name / main_folder(table, arm, seed, runs, factor).name


def _job(table: Table, arm: Arm, seed: int, factor: float, folder: Path, more: tuple[str, ...], runs: Path) -> Job:
    measured = (f"task={table.task}", *table.settings, f"eval.n={table.n}", f"eval.prompts={table.prompts}", *QUIET)
    rate = () if table.learning_rate is None else (f"learning_rate={factor * table.learning_rate:g}",)
    own = (*measured, *arm.overrides, *rate, *more, f"seed={seed}", f"run_dir={folder}", "resume=auto")
    return Job(table.name, arm.name, seed, factor, folder, ("train", *_filled(own, runs)), table.seconds)


def _filled(arguments: Sequence[str], runs: Path) -> tuple[str, ...]:
    return tuple(each.replace(PREPARED, str(runs / "prepared")) for each in arguments)
