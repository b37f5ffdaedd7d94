"""Memory of a process at each ZeRO stage, against 16 bytes a parameter divided by the number of processes.

    python scripts/bench_zero.py --nproc 2 --json zero.json

The model has SmolLM2-135M's shape, with weights in bfloat16 from stage 2 on. Measured is the memory added to a process
since its imports, after two updates, without activations. In brackets: the bytes a parameter that a stage should keep:
weights 2 (fp32 and autocast at stages 0 and 1: 4), gradients while they are summed 4, fp32 weights and AdamW's moments
12 (stage 0: moments 8).
"""

import argparse
import ctypes
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import measuring
import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BYTES = {0: "4 + 8", 1: "4 + 12 / n", 2: "2 + 12 / n", 3: "(2 + 12) / n"}  # stage: bytes a parameter; n processes


def main() -> int:
    """Exit code 0; measures and prints everything."""
    if os.environ.get("RANK"):
        return worker(int(sys.argv[1]), Path(sys.argv[2]))
    parser = measuring.parser(__doc__, threads=1)
    parser.add_argument("--nproc", type=int, default=2)
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    rows = {}
    for stage in BYTES:
        rows[stage] = row = run(stage, arguments)
        size = f"{row['bytes_a_parameter']:.1f} bytes a parameter and process"
        expected = f"states: {BYTES[stage]}; 16 / n is {16 / arguments.nproc:.0f}"
        print(f"stage {stage}: {size} ({expected}), {row['gb']:.2f} GB, peak {row['peak_gb']:.2f} GB", flush=True)
    measuring.write(arguments.json, machine=machine, arguments=vars(arguments), rows=rows)
    return 0


def run(stage: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Memory of the largest process at one stage, measured by ``--nproc`` workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = Path(tempfile.gettempdir()) / f"dqo-zero-{os.getpid()}-{stage}.json"
    shared = {**os.environ, "WORLD_SIZE": str(arguments.nproc), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(stage), str(out)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(arguments.nproc)
    ]
    codes = [worker.wait() for worker in workers]
    assert not any(codes), codes
    result = json.loads(out.read_text())
    out.unlink()
    return result


def worker(stage: int, out: Path) -> int:
    """The process of one rank: two updates; rank 0 writes the numbers to ``out``."""
    import bench_learner
    import deepspeed  # noqa: F401 - imported before the first measurement, so that its own memory does not count

    from dqo import distributed
    from dqo.learner.deepspeed_zero import DeepSpeedZero
    from dqo.records import Estimates

    torch.set_num_threads(1)
    distributed.init()
    settings = argparse.Namespace(prompts=1, prompt_length=20, k=2, completion_length=8, budget=1024, bf16=True)
    before = psutil.Process().memory_info().rss
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    policy = LlamaForCausalLM(config).eval()
    parameters = sum(p.numel() for p in policy.parameters())
    loss, optim = bench_learner.parts(settings)
    learner = DeepSpeedZero(
        policy, torch.device("cpu"), loss, optim, needs_reference=False, stage=stage, offload_optimizer=False,
        offload_param=False, settings=bench_learner.learner_settings(settings),
    )  # fmt: skip
    experience, targets = bench_learner.batch(settings)
    for _ in range(2):
        learner.update(experience, Estimates(), targets)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    memory = psutil.Process().memory_info()
    peak = measuring.peak() - before
    grown = max(distributed.all_gather(memory.rss - before))
    if distributed.is_rank_0():
        row = {"bytes_a_parameter": grown / parameters, "gb": grown / 1e9, "peak_gb": peak / 1e9}
        out.write_text(json.dumps(row))
    distributed.barrier()
    return 0


if __name__ == "__main__":
    sys.exit(main())
