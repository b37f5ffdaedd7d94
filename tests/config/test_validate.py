import itertools
import pkgutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dqo.advantage.gdpo import Gdpo
from dqo.advantage.joint import Joint
from dqo.config.advice import advice
from dqo.config.stage_answers import has_critic, needs_values, pays_tokens
from dqo.config.validate import validate
from dqo.contracts import says
from dqo.credit.dpp import Dpp
from dqo.credit.none import NoCredit
from dqo.critic.none import NoCritic
from dqo.errors import ConfigError
from dqo.records import Estimates, Experience
from dqo.run.build import make
from tests.config.builders import checked
from tests.credit.builders import available
from tests.factories import make_rewards, make_rollouts
from tests.helpers.composing import composed_evaluation, composed_sample
from tests.helpers.toy_stages import EvenReward

JOINT = ("task=concepts", "credit=dpp", "reward=check", "rollout=vllm")  # no gate
PYTHON = ("reward=python", "reward.function=a.b")
PYTHON_PART = ("reward.parts.style.function=a.b", "reward.correct_from=null")


def test_the_defaults_pass():
    validate(checked())


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ((), {"k": 10**6}, r"k=1000000: prompts_per_step \* k is 4000000 .* type k=8"),
        ((), {"run_dir": " "}, r"run_dir= names no folder"),
        (
            ("eval.metrics=[nli_disagreement]",),
            {},
            "nli_disagreement asks a model that is not named; type eval.nli=FOLDER, or leave nli_disagreement out",
        ),
        (
            ("eval.metrics=[reward,judge_diversity]",),
            {},
            "judge_diversity asks a model that is not named; type eval.judge.base_url=URL eval.judge.model=NAME, or",
        ),
        (("eval.judge.model=m",), {}, "eval.judge.model=m alone names no judge: eval.judge.base_url is null; type"),
        (("eval.judge.base_url=http://x",), {}, "eval.judge.base_url=http://x alone names no judge: eval.judge.model"),
        ((), {"run_dir": "~/runs/a"}, r"run_dir=~/runs/a: ~ stays as it is here; type run_dir=\$HOME/FOLDER"),
        (PYTHON, {}, r"reward\.correct_above=null: credit\.gate=correct .* type reward\.correct_above=0\.5"),
        (
            ("credit=dpp", "credit.kernel=rbf", "credit.embedding=reference_centred"),
            {},
            r"credit\.embedding=reference_centred with credit\.kernel=rbf: .* type credit\.embedding=plain, or",
        ),
        (
            ("reward=check_and_python", "reward.parts.style.function=a.b", "reward.correct_from=style"),
            {},
            r"reward\.parts\.style\.correct_above=null",
        ),
        (
            ("reward=check_and_python", "reward.parts.style.function=a.b", "reward.correct_from=null"),
            {},
            "correct_from",
        ),
        ((), {"checkpoint__keep_every": 50}, r"multiple of checkpoint\.every=20; type checkpoint\.keep_every=40"),
        (
            (),
            {"checkpoint__keep_every": 50, "checkpoint__every": 0},
            r"multiple of checkpoint\.every=0; type checkpoint\.keep_every=0",
        ),
        (JOINT, {"ahead": 1, "rollout__tensor_parallel_size": 2}, r"ahead=1: workers that share .*; type ahead=0"),
        (JOINT, {"k": 1}, r"k=1: .*no others; type k=8, or alpha=0"),
        (JOINT, {"k": 2}, r"k=2: .*removes them entirely; type k=3 or more, or advantage=unbiased"),
        (("credit=none",), {}, r"credit=none: .*; type credit=dpp, or alpha=0"),
        (("algorithm=ppo",), {"critic__warmup": 10**6}, r"critic\.warmup=1000000: .*type critic\.warmup=0, or steps="),
        (("advantage=gae",), {}, "critic=none: this advantage needs a critic's values; type critic=model, or critic="),
        (
            (),
            {"num_mini_batches": 5},
            "num_mini_batches=5: .* prompts_per_step=4; type num_mini_batches=4, or",
        ),
        ((), {"learner__num_mini_batches": 5}, "num_mini_batches=5: mini-batches are whole groups"),
        ((), {"redraw_signal": 0.2}, "redraw_signal=0.2: redraws=0 draws nothing anew; type redraws=3, or redraw_sig"),
        (
            ("algorithm=reinforce_pp",),
            {"advantage__kl_target": 6.0, "advantage__kl_horizon": 31},
            "advantage.kl_horizon=31: .* one step of 32 completions; type advantage.kl_horizon=10000",
        ),
        (
            (*JOINT, "algorithm=reinforce_pp", "advantage.baseline=group"),
            {"k": 2},
            r"k=2: .*removes them entirely; type k=3 or more, or advantage=unbiased",
        ),
        (
            ("advantage=separate",),
            {"advantage__normalize_credit": "spread"},
            r"scale_rewards=group divides credits already; type advantage.normalize_credit=none, or advantage.scale_",
        ),
        (
            ("credit=dpp_steps", "advantage=maxrl"),
            {"advantage__normalize_credit": "spread"},
            r"normalize_credit=spread: this credit pays single tokens, .*; type advantage\.normalize_credit=none, or",
        ),
        (
            ("credit=dpp_steps", "advantage=maxrl"),
            {"advantage__credit_baseline": "none"},
            r"credit_baseline=none: this credit pays single tokens, .*; type advantage\.credit_baseline=group, or",
        ),
        (("credit=constant",), {"credit__gate": "none"}, r"credit\.gate=none: .*; type credit\.gate=correct, or"),
        (("reward=none",), {}, r"reward=none judges nothing, .*; type dqo-eval to measure a policy, or reward=python"),
    ],
)
def test_contradictions_end_in_what_to_type(options, changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(checked(*options, **changes))


def test_small_groups_are_fine_without_the_credit_or_with_an_independent_baseline():
    validate(checked(*JOINT, k=1, alpha=0.0))
    validate(checked(*JOINT, k=2, alpha=0.0))
    validate(checked(*JOINT, "advantage=unbiased", k=2))
    validate(checked("credit=none", alpha=0.0))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; type run_dir="):
        validate(checked(run_dir=str(tmp_path / "file")))


KERNELS = ("cosine", "rbf", "polynomial")
GATES = ({"gate": "none"}, {"gate": "correct"}, {"gate": "threshold", "threshold": 0.5})
CREDITS = [
    *(("dpp", {"kernel": kernel}) for kernel in KERNELS),
    ("dpp", {"kernel": "polynomial", "offset": 1.0}),
    ("dpp", {"embedding": "prompt_centred"}),
    ("dpp", {"embedding": "prompt_centred", "kernel": "polynomial", "offset": 1.0}),
    *(("dpp", {"kernel": kernel, "quality": "reward"}) for kernel in KERNELS),
    *(("distance", {"metric": metric}) for metric in ("euclidean", "cosine")),
    *((credit, {}) for credit in ("setpo", "nearest", "vendi", "dra", "mmr")),
    *(("elliptic", {"features": features}) for features in ("plain", "centred")),
    *(("partition", {"by": "embedding", "similarity": 0.0, "form": form}) for form in ("multiply", "add")),
]
ADVANTAGES = [*itertools.product(["joint", "separate"], ["none", "group", "batch"]), ("unbiased", None)]
OTHER_ADVANTAGES = [
    *((advantage, {}) for advantage in ("maxrl", "ucpo", "gdpo", "flowrl")),
    ("pkpo", {"n": 2}),
    *((advantage, {"credit_baseline": "none"}) for advantage in ("maxrl", "ucpo", "separate")),
    ("joint", {"normalize_credit": "spread"}),
]  # advantage=set asks for groups of three


def follows_similarity(config) -> bool:
    """Whether advantages in groups of two change with the embeddings, by more than one factor for all of them."""
    parts = {**available(), "reward": EvenReward()}
    credit, advantage = make(config.credit, "credit", parts), make(config.advantage, "advantage", parts)
    is_batchwise = config.advantage.get("scale_rewards") == "batch" or isinstance(advantage, Gdpo)
    rewards = make_rewards([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.25], [1.0, 0.75]])
    rollouts, found = make_rollouts([f"w{i}" for i in range(10)], 2), []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        embeddings = torch.nn.functional.normalize(torch.randn(5, 2, 6, generator=generator), dim=-1)
        credits = credit.assign(rollouts, rewards, embeddings)
        for total in (torch.zeros(5, 2), rewards.total_PK):  # the credit's part, and both
            experience = Experience(
                rollouts=rollouts, rewards=replace(rewards, total_PK=total), embeddings_PKD=None, credits_PK=credits
            )
            estimates = Estimates(ref_logprobs_BT=rollouts.logprobs_BT)
            found.append(advantage(experience, estimates, alpha=1.0).advantages_BT.flatten())
            if is_batchwise:
                break
    if is_batchwise:
        found = [torch.nn.functional.normalize(each, dim=0) for each in found for _ in range(2)]
    return any((each - found[i % 2]).abs().max() > 1e-4 for i, each in enumerate(found))


@pytest.mark.parametrize(("credit", "keys"), CREDITS)
def test_groups_of_two_are_refused_exactly_where_advantages_do_not_follow_similarity(credit, keys):
    for gate, (advantage, scale) in itertools.product(GATES, ADVANTAGES):
        changes = {f"credit__{key}": value for key, value in (keys | gate).items()}
        if scale:
            changes["advantage__scale_rewards"] = scale
        options = ("task=concepts", "reward=check", f"credit={credit}", f"advantage={advantage}")
        config = checked(*options, k=2, **changes)
        if follows_similarity(config):
            validate(config)
        else:
            with pytest.raises(ConfigError, match=r"k=2: .* type k=3 or more, or advantage=unbiased, or alpha=0"):
                validate(config)


@pytest.mark.parametrize(("advantage", "keys"), OTHER_ADVANTAGES)
@pytest.mark.parametrize("credit", ["dpp", "distance"])
def test_the_other_advantages_say_rightly_whether_they_compare_within_a_group(advantage, keys, credit):
    changes = {f"advantage__{key}": value for key, value in keys.items()} | {"credit__gate": "none"}
    options = ("task=concepts", "reward=check", f"credit={credit}", f"advantage={advantage}")
    config = checked(*options, k=2, **changes)
    if follows_similarity(config):
        validate(config)
        assert keys == {"credit_baseline": "none"}
    else:
        with pytest.raises(ConfigError, match=r"k=2: .* type k=3 or more, or advantage=unbiased, or alpha=0"):
            validate(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("advantage=ucpo",), "this advantage asks .* type reward.correct_above=0.5, or advantage=joint"),
        (("advantage=set", "advantage.f=minority"), "advantage.f=minority asks .*, or advantage.f=max"),
        (("advantage=set", "advantage.f=mean_distinct"), "advantage.f=mean_distinct asks .*, or advantage.f=max"),
        (("loss=replay",), r"loss\.terms\.replay asks .*, or loss=clip"),
        (
            ("loss=entropy_correct",),
            r"loss\.terms\.entropy\.tokens=correct asks .*, or loss\.terms\.entropy\.tokens=all",
        ),
    ],
)
def test_stages_that_ask_what_is_correct_are_refused_where_the_reward_does_not_say(options, message):
    silent = ("task=concepts", *PYTHON, "credit.gate=none", *options)
    with pytest.raises(ConfigError, match=message):
        validate(checked(*silent))
    validate(checked(*silent, "reward.correct_above=0.5"))
    validate(checked("task=concepts", *PYTHON, "credit.gate=none", "advantage=set", "loss=entropy"))


class Rarity:
    """A credit of a user's own, with the keys of ours: two completions of a group may earn differently."""

    uses_embeddings = True

    def __init__(self, *, gate: str, quality: str):
        self.gate, self.quality = gate, quality

    def assign(self, rollouts, rewards, embeddings_PKD):
        return embeddings_PKD[:, :, 0]


class Learned(Dpp):
    """Our credit with lengths of the user's own in the kernel."""

    def assign(self, rollouts, rewards, embeddings_PKD):
        return super().assign(rollouts, rewards, embeddings_PKD) * rollouts.lengths_B.view(-1, rollouts.k)


class Renamed(Dpp):
    """Our credit under another name."""


class OwnScale(Joint):
    """Our advantage with a baseline of the user's own."""

    def __call__(self, experience, estimates, *, alpha):
        raise NotImplementedError


class NotNone(NoCredit):
    """Pays, and has no keys."""

    def assign(self, rollouts, rewards, embeddings_PKD):
        return rewards.total_PK


def with_class(config, group, cls):
    node = {**getattr(config, group), "_target_": f"{cls.__module__}.{cls.__qualname__}"}
    if cls is Rarity:
        node = {"_target_": node["_target_"], "gate": "none", "quality": "none"}
    if cls is NotNone:
        node = {"_target_": node["_target_"]}
    return config.model_copy(update={group: node})


@pytest.mark.parametrize("cls", [Rarity, Learned, NotNone])
def test_a_credit_of_ones_own_may_have_groups_of_two(cls):
    validate(with_class(checked(*JOINT, k=2), "credit", cls))


def test_an_advantage_of_ones_own_may_have_groups_of_two_and_a_renamed_credit_may_not():
    validate(with_class(checked(*JOINT, k=2), "advantage", OwnScale))
    with pytest.raises(ConfigError, match="k=2"):
        validate(with_class(checked(*JOINT, k=2), "credit", Renamed))


class OwnCritic(NoCritic):
    """Estimates something, and has no keys."""

    def loss(self, values_N, **others):
        return values_N.sum(), {}


def test_a_critic_of_ones_own_asks_for_an_advantage_that_uses_it_too():
    validate(with_class(checked("algorithm=ppo", "critic=none"), "critic", OwnCritic))
    with pytest.raises(ConfigError, match=r"^critic: this advantage has no use for a critic's values"):
        validate(with_class(checked(), "critic", OwnCritic))


def options_of(group: str) -> list[str]:
    return sorted(path.stem for path in Path("conf", group).glob("*.yaml"))


@pytest.mark.parametrize(
    ("group", "by_keys", "by_class"),
    [
        ("advantage", needs_values, lambda cls: says(cls, "needs_values", of="__call__")),
        ("critic", has_critic, lambda cls: not says(cls, "estimates_nothing", of="loss")),
        ("credit", pays_tokens, lambda cls: hasattr(cls, "assign_tokens")),
    ],
)
def test_keys_say_of_dqos_own_options_what_their_classes_say(group, by_keys, by_class):
    answers = {}
    for option in options_of(group):
        config = checked(f"{group}={option}")
        answers[option] = by_keys(config)
        assert answers[option] == by_class(pkgutil.resolve_name(getattr(config, group)["_target_"])), option
    assert {*answers.values()} == {True, False}


def test_a_run_on_own_data_without_a_gate_is_told_that_gibberish_is_paid():
    own = ("task=jsonl", "task.path=a.jsonl", *PYTHON)
    (line,) = advice(checked(*own))
    assert line == (
        "credit.gate=none and reward.correct_above=null: nothing says which completions are correct, so alpha=1 pays "
        "gibberish, too, for being different; type credit.gate=threshold credit.threshold=LOWEST_GOOD_REWARD, or "
        "credit.gate=reference (a bar of its own for each prompt), or credit.gate=correct reward.correct_above=0.5"
    )
    (line,) = advice(checked("task=jsonl", "task.path=a.jsonl", "reward=check_and_python", *PYTHON_PART))
    assert "reward.correct_from=PART" in line
    for options in (
        (*own, "credit.gate=threshold", "credit.threshold=0.5"),
        (*own, "reward.correct_above=0.5"),
        (*own, "alpha=0"),
        (*own, "credit=none", "alpha=0"),
        ("task=jsonl", "task.path=a.jsonl", "task.answer_column=b"),
        (),
    ):
        assert advice(checked(*options)) == []


def test_an_elliptic_credit_that_drowns_the_reward_is_told_so():
    (line,) = advice(checked("credit=elliptic"))
    assert "credits reach 1 / credit.ridge = 100, and alpha=2 times that drowns the reward" in line
    assert line.endswith("type alpha=0.01, or credit.bonus=leverage")
    assert advice(checked("credit=elliptic", "alpha=0.01")) == []
    assert advice(checked("credit=elliptic", "credit.bonus=leverage")) == []


def test_a_kl_in_the_reward_and_in_the_loss_is_told_so():
    (line,) = advice(checked("algorithm=reinforce_pp", beta=0.04))
    assert line.startswith("advantage.kl_coef=0.01 and beta=0.04: the KL to the initial model is in the reward and in")
    assert line.endswith("type beta=0, or advantage.kl_coef=0")
    assert advice(checked("algorithm=reinforce_pp")) == advice(checked(beta=0.04)) == []


def test_a_group_of_one_without_another_baseline_is_told_that_it_teaches_nothing():
    for options in ((), ("algorithm=rloo",), ("algorithm=reinforce_pp", "advantage.baseline=group")):
        (line,) = advice(checked(*options, k=1, alpha=0.0))
        assert line.startswith("k=1: ") and line.endswith("type k=8, or algorithm=ppo, or algorithm=reinforce_pp")
    for options in (("algorithm=ppo",), ("algorithm=reinforce_pp",)):
        assert advice(checked(*options, k=1, alpha=0.0)) == []


def test_flowrl_with_other_weights_of_tokens_is_told_so():
    (line,) = advice(checked("advantage=flowrl"))
    assert line == (
        "advantage=flowrl with loss.loss_type=dapo: FlowRL divides the log-probability of a completion by its length; "
        "type loss.loss_type=grpo"
    )
    assert advice(checked("advantage=flowrl", loss__loss_type="grpo")) == []


def test_a_kl_of_completions_that_is_not_exact_is_told_so():
    assert advice(checked("loss=kl_sequence", beta=0.1)) == []
    (line,) = advice(checked("loss=kl_sequence", beta=0.1, loss__importance_sampling_level="sequence"))
    assert line == (
        "the term kl_sequence with loss.importance_sampling_level=sequence: the gradient is not exactly that of the "
        "completions' KL; type loss.importance_sampling_level=token"
    )
    (line,) = advice(checked("loss=kl_sequence", "loss.use_bias_correction_kl=false", "loss.loss_type=dapo", beta=0.1))
    assert line.endswith("; type loss.loss_type=dr_grpo loss.use_bias_correction_kl=true")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("prompt=x", "index=3"), "prompt and index=3: one prompt is asked; leave one of the two out"),
        (("prompt=' '",), "prompt is empty; type prompt='Recommend a city.', or index=0"),
        (("prompt=x", "choose=9", "k=8"), "choose=9: 8 completions are sampled; type choose=4, or k=18"),
        (("prompt=x", "k=2000000"), "k=2000000: at most 1000000 completions"),
    ],
)
def test_a_group_that_cannot_be_sampled_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        validate(composed_sample(*options))


@pytest.mark.parametrize(
    ("options", "stdout_too", "message"),
    [
        (("json=true",), True, "json=true: no prompt is typed; type prompt="),
        ((), False, "stdout is no terminal: no prompt is typed; type prompt="),
    ],
)
def test_a_terminal_is_asked_only_where_it_sees_the_answers(monkeypatch, options, stdout_too, message):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: stdout_too)
    with pytest.raises(ConfigError, match=message):
        validate(composed_sample(*options))
    validate(composed_sample("index=0", *options))


def test_one_completion_has_no_diversity():
    with pytest.raises(ConfigError, match=r"n=1: cosine_distance compares .* type n=10, or eval.metrics=\[reward,pass"):
        validate(composed_evaluation("n=1"))
    validate(composed_evaluation("n=1", "eval.metrics=[reward,pass,finished,mean_length]"))
    validate(composed_evaluation("n=1", "from=[completions]"))  # which have another number
