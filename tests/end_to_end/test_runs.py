"""Whole runs, as a user types them: real processes, the tiny model."""

import json
import os
import shlex
import signal

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.end_to_end.conftest import SMALL, lines

pytestmark = pytest.mark.slow


def test_a_run_leaves_what_the_readme_says(dqo, tmp_path):
    text = dqo(*SMALL, "run_dir=run", "checkpoint.every=2", "eval.every=1", "log.tensorboard=true", checked=True)
    run = tmp_path / "run"
    for name in ("config.yaml", "metrics.jsonl", "completions", "checkpoints", "policy", "summary.json", "curves.png"):
        assert (run / name).exists(), name
    summary = json.loads((run / "summary.json").read_text())
    for moment in ("before", "after"):
        assert {"reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "logdet"} <= summary[
            moment
        ].keys()
    assert [row["step"] for row in lines(run)] == [0, 1, 1, 2, 2]
    table = pq.read_table(run / "completions" / "step_00002.parquet")
    assert table.num_rows == 8 and {"prompt", "completion", "reward", "credit", "advantage"} <= set(table.column_names)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(run / "policy"),
        AutoTokenizer.from_pretrained(run / "policy"),
    )
    assert model.config.vocab_size == len(tokenizer)
    assert "| concepts | 1 | 0 | 4 | 2 | 0.0005 |" in (run / "policy" / "README.md").read_text()
    assert "resume=run" in text and "before" in text and "after" in text


@pytest.mark.parametrize(
    "options",
    [
        ("rollout=fake", "embed=fake", "warm_start=false"),
        (
            "embed=fake",
            "credit=distance",
            "advantage=separate",
            "algorithm=dr_grpo",
            "credit.gate=threshold",
            "credit.threshold=0",
        ),
        ("embed=fake", "learner.lora_r=4", "beta=0.05", "learner.num_iterations=2", "algorithm=gspo"),
        ("embed=fake", "ahead=1", "redraws=1", "algorithm=rloo", "learner.shared_prompt=false", "k=2"),
        ("credit=none", "alpha=0", "learner.gradient_checkpointing=true", "optim.lr_scheduler_type=cosine"),
    ],
    ids=lambda options: " ".join(options),
)
def test_options_run_together(dqo_here, tmp_path, options):
    dqo_here(*SMALL, *options, "run_dir=run")
    steps = [row for row in lines(tmp_path / "run") if "loss" in row]
    assert len(steps) == 2 and all(row["loss"] is not None for row in steps)
    learns = "alpha=0" not in options  # nothing is right yet, so that the reward alone teaches nothing
    assert all((row["grad_norm"] > 0) == learns for row in steps)


def test_warm_start_then_own_data_and_own_reward(dqo_here, tmp_path):
    """dqo-sft writes a folder that model=hf reads; a jsonl file and a function of the user's do the rest."""
    dqo_here("model=tiny", "task=concepts", "sft.steps=30", "run_dir=warm", command="sft")
    rows = [{"prompt": f"{a} {b} park :", "must": a} for a, b in [("dog", "ball"), ("cat", "ball"), ("dog", "cat")]]
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "my_module.py").write_text(
        "def score(prompts, completions, must, **columns):\n"
        "    return [float(word in text.split()) for word, text in zip(must, completions)]\n"
    )
    dqo_here(
        "model=hf", "model.path=warm/policy", "task=jsonl", "task.path=my.jsonl", "task.held_out=1",
        "task.chat_template=false",
        "reward=python", "reward.function=my_module.score", "embed=fake", "steps=2", "prompts_per_step=2", "k=4",
        "max_completion_length=12", "eval.every=0", "checkpoint.every=0", "run_dir=run",
    )  # fmt: skip
    assert "rewards/score/mean" in lines(tmp_path / "run")[1]


def test_a_sweep_gives_a_folder_each_and_reports_a_bad_job_at_once(dqo, tmp_path):
    text = dqo("-m", *SMALL, "rollout=fake", "embed=fake", "warm_start=false", "k=1,4", "run_dir=sweep", code=1)
    assert "k=1: alpha=1 pays completions for differing" in text
    assert "; job 0 of the sweep (k=1) was left out" in text and "the sweep in sweep: 1 done, 1 refused" in text
    assert [path.name for path in (tmp_path / "sweep").glob("?_*")] == ["1_k=4"]
    assert (tmp_path / "sweep" / "1_k=4" / "summary.json").exists()


def test_sigterm_ends_a_sweep_after_the_step_and_the_printed_command_goes_on(dqo, start, tmp_path):
    """The signal comes to the launcher and to its worker, as from ``timeout`` and systemd."""
    fake = [*SMALL, "rollout=fake", "embed=fake", "warm_start=false", "checkpoint.final=false", "steps=200"]
    process = start("-m", *fake, "alpha=0,1", "run_dir=sweep")
    for line in process.stdout:
        if line.startswith("step 3/"):
            os.killpg(process.pid, signal.SIGTERM)
            break
    text = process.communicate(timeout=300)[0]
    assert process.returncode == 130, text
    assert "1 stopped, 1 not started" in text and not (tmp_path / "sweep" / "1_alpha=1").exists()
    (checkpoint,) = (tmp_path / "sweep" / "0_alpha=0" / "checkpoints").iterdir()
    assert checkpoint.name != "step_00200"
    again = shlex.split(text.partition("goes on with dqo-train ")[2].splitlines()[0])
    text = dqo(*again, f"steps={int(checkpoint.name.removeprefix('step_')) + 1}")
    assert f"going on from sweep/0_alpha=0/checkpoints/{checkpoint.name}" in text and "2 done" in text
    assert (tmp_path / "sweep" / "1_alpha=1" / "summary.json").exists()


def test_a_dry_run_shows_batch_memory_and_prompt_and_writes_nothing(dqo_here, tmp_path):
    text = dqo_here(*SMALL, "dry_run=true", "run_dir=run", "embed=fake", "warm_start=false")
    assert "2 prompts × k=4 = 8 completions" in text and "memory:" in text and "the first prompt" in text
    assert not (tmp_path / "run").exists()


def test_vllm_samples_and_its_run_goes_on(dqo, tmp_path):
    pytest.importorskip("vllm")
    dqo(*SMALL, "rollout=vllm", "embed=fake", "rollout.sync_check_every=1", "checkpoint.every=2", "run_dir=run")
    pytest.importorskip("deepspeed")
    dqo("resume=run", "steps=3", "learner=deepspeed_zero", "learner.stage=1")  # from torch_single's checkpoint
    steps = [row for row in lines(tmp_path / "run") if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    assert all(0 < row["sampling/sampling_logp_difference/mean"] < 0.05 for row in steps)
