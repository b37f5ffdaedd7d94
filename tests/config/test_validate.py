import pytest
from omegaconf import OmegaConf

from dqo.config.validate import validate
from dqo.errors import ConfigError

GOOD = {
    "alpha": 1.0, "beta": 0.0, "k": 8, "steps": 10, "seed": 0, "learning_rate": 1e-5, "temperature": 1.0,
    "prompts_per_step": 4, "max_completion_length": 12, "ahead": 0, "redraws": 0, "nproc": 1, "device": "auto",
    "eval": {"every": 0, "n": 10, "prompts": 4}, "log": {"every": 1},
    "checkpoint": {"every": 0, "keep_last": 1, "keep_every": 0},
    "sft": {"steps": 1, "batch_size": 1, "learning_rate": 1e-4, "seed": 0},
    "run_dir": "runs/none", "resume": None, "dry_run": False,
    "reward": {"_target_": "dqo.reward.check.Check"}, "credit": {"_target_": "dqo.credit.dpp.Dpp"},
    "advantage": {"_target_": "dqo.advantage.joint.Joint"},
    "learner": {"_target_": "dqo.learner.torch_single.TorchSingle"},
    "rollout": {"_target_": "dqo.rollout.vllm.Vllm", "tensor_parallel_size": 1},
}  # fmt: skip


def config(**changes):
    config = OmegaConf.create(GOOD)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


def test_the_defaults_pass():
    validate(config())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -1.0}, r"alpha=-1\.0: a number from 0 to 1e\+06 is needed; type alpha=1\.0"),
        ({"alpha": float("nan")}, r"alpha=nan: "),
        ({"alpha": float("inf")}, r"alpha=inf: "),
        ({"beta": -0.1}, r"beta=-0\.1: "),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0: "),
        ({"temperature": 0.0}, r"temperature=0\.0: "),
        ({"temperature": 1e-30}, r"temperature=1e-30: "),
        ({"learning_rate": 100.0}, r"learning_rate=100\.0: .* type learning_rate=1e-5"),
        ({"seed": 2**63}, r"seed=9223372036854775808: at most .* type seed=0"),
        ({"k": 10**6}, r"k=1000000: prompts_per_step \* k is 4000000 .* type k=8"),
        ({"redraws": 101}, r"redraws=101: at most 100"),
        ({"run_dir": " "}, r"run_dir= names no folder"),
        ({"credit__gate": "correct", "reward": {"correct_above": None}}, r"reward\.correct_above=null: .*=0\.5"),
        (
            {"credit__gate": "correct", "reward": {"correct_from": "a", "parts": {"a": {"correct_above": None}}}},
            r"reward\.parts\.a\.correct_above=null",
        ),
        ({"k": 0}, r"k=0: 1 or more is needed"),
        ({"steps": 0}, r"steps=0: "),
        ({"eval__n": 0}, r"eval\.n=0: 1 or more is needed; type eval\.n=10"),
        ({"checkpoint__keep_last": 0}, r"checkpoint\.keep_last=0: "),
        ({"checkpoint__keep_every": -1}, r"checkpoint\.keep_every=-1: 0 or more is needed"),
        ({"checkpoint__keep_every": 50, "checkpoint__every": 20}, r"multiple .* type checkpoint\.keep_every=40"),
        ({"checkpoint__keep_every": 50}, r"multiple of checkpoint\.every=0; type checkpoint\.keep_every=0"),
        ({"ahead": 1, "rollout__tensor_parallel_size": 2}, r"ahead=1: workers that share .*; type ahead=0"),
        ({"ahead": 2}, r"ahead=2: .*; type ahead=0"),
        ({"nproc": 2}, r"nproc=2: TorchSingle is one process; type learner=deepspeed_zero, or nproc=1"),
        ({"device": "tpu"}, r"device=tpu: allowed are auto \| cpu \| cuda"),
        ({"k": 1}, r"k=1: .*no others; type k=8, or alpha=0"),
        ({"k": 2}, r"k=2: .*removes them entirely; type k=3 or more, or advantage=unbiased"),
        ({"credit___target_": "dqo.credit.none.Zero"}, r"credit=none: .*; type credit=dpp, or alpha=0"),
    ],
)
def test_contradictions_end_in_what_to_type(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(config(**changes))


def test_small_groups_are_fine_without_the_credit_or_with_an_independent_baseline():
    validate(config(k=1, alpha=0.0))
    validate(config(k=2, alpha=0.0))
    validate(config(k=2, advantage___target_="dqo.advantage.unbiased.Unbiased"))
    validate(config(alpha=0.0, credit___target_="dqo.credit.none.Zero"))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; type run_dir="):
        validate(config(run_dir=str(tmp_path / "file")))
