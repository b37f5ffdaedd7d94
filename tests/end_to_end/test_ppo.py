"""PPO with a critic, as a user types it: killed, gone on with, on two ranks, with an engine."""

import os
import signal

import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from tests.end_to_end.conftest import SMALL, lines
from tests.helpers.commands import run_in_process
from tests.helpers.processes import wait_for

pytestmark = pytest.mark.slow
PPO = (*SMALL, "algorithm=ppo", "embed=fake", "log.live=false", "optim=adamw")
FP32 = ("learner.dtype=float32", "rollout.dtype=float32")


def test_a_killed_run_goes_on_bit_for_bit_and_leaves_the_policy_alone(dqo_here, start, tmp_path, monkeypatch, capsys):
    exact = (
        *PPO, "steps=6", "checkpoint.every=1", "learner.num_mini_batches=2", "critic.warmup=2",
        "advantage.kl_target=0.5", "advantage.kl_horizon=20",
    )  # fmt: skip
    killed = start(*exact, "run_dir=killed")
    wait_for(tmp_path / "killed" / "checkpoints" / "step_00001", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert run_in_process("train", ["resume=killed", "algorithm=grpo"], monkeypatch) == 2
    refused = capsys.readouterr().err.strip()
    assert "\n" not in refused and "unknown key critic.warmup: it belongs to critic=model" in refused
    dqo_here("resume=killed")
    dqo_here(*exact, "run_dir=whole")
    whole, parts = tmp_path / "whole", tmp_path / "killed"
    assert lines(parts) == lines(whole) and len(lines(whole)) == 8
    assert {"critic/vf_loss", "objective/kl_coef"} <= lines(whole)[-2].keys()
    completions = (pq.read_table(run / "completions" / "step_00006.parquet") for run in (parts, whole))
    assert next(completions).equals(next(completions))
    weights = [(run / "policy" / "model.safetensors").read_bytes() for run in (parts, whole)]
    assert weights[0] == weights[1]
    saved = parts / "checkpoints" / "step_00006" / "learner"
    assert sorted(path.name for path in saved.iterdir() if path.is_dir()) == ["critic", "policy"]
    model, info = AutoModelForCausalLM.from_pretrained(parts / "policy", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with safe_open(saved / "policy" / "parameters.safetensors", "pt") as trained:
        assert sorted(trained.keys()) == sorted(name for name, _ in model.named_parameters())


def test_two_ranks_with_sharded_models_do_what_one_does_and_one_goes_on(dqo, dqo_here, tmp_path):
    pytest.importorskip("deepspeed")
    dqo(*PPO, *FP32, "learner=deepspeed_zero", "learner.stage=3", "nproc=2", "checkpoint.every=2", "run_dir=two")
    dqo_here(*PPO, *FP32, "learner=torch_single", "run_dir=one")
    two, one = (next(row for row in lines(tmp_path / name) if "loss" in row) for name in ("two", "one"))
    assert two.keys() == one.keys()
    for key in ("reward", "loss", "grad_norm", "grad_norm/critic", "critic/vf_loss", "critic/vf_explained_var"):
        assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-6), key
    dqo_here("resume=two", "steps=3", "nproc=1", "learner=torch_single")
    assert [row["step"] for row in lines(tmp_path / "two") if "loss" in row] == [1, 2, 3]


def test_vllm_samples_for_a_critic_on_the_policys_hidden_states(dqo, tmp_path):
    pytest.importorskip("vllm")
    pytest.importorskip("deepspeed")
    engines = ("rollout=vllm", "rollout.sync_check_every=1", "learner=deepspeed_zero", "learner.stage=2")
    dqo(*PPO, *engines, "critic=head", "nproc=1", "run_dir=run")
    steps = [row for row in lines(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(0 < row["sampling/sampling_logp_difference/mean"] < 0.05 for row in steps)
    assert all(row["critic/vf_loss"] >= 0 and row["grad_norm/critic"] > 0 for row in steps)
    assert pq.read_table(tmp_path / "run" / "completions" / "step_00002.parquet").num_rows == 8
