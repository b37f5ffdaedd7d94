"""Speed of sampling against the engine's own call: rollout=hf with model.generate, rollout=vllm with LLM.generate.

    python scripts/bench_rollout.py vllm --dtype bfloat16 --json rollout.json

Both sides sample SmolLM2-135M in turns, with the same prompts, k, temperature 1 and maximum length. They are compared
in tokens a second, since the lengths are random. rollout=vllm also returns log-probabilities and texts, which a
training step needs.
"""

import sys

import bench_step
import measuring
import torch

TARGETS = {"hf": 1.2, "vllm": 0.95}  # dqo's speed over the engine's own, at least


def main() -> int:
    """Exit code 0; measures and prints everything."""
    parser = measuring.parser(__doc__, threads=2)
    parser.add_argument("engine", choices=TARGETS)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=measuring.dtypes()[-1])
    parser.add_argument("--longest", type=int, default=12, help="maximum tokens of a completion")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--k", type=int, default=8)
    arguments = parser.parse_args()
    machine = measuring.ready(arguments)
    ours = bench_step.Ours(
        [
            "task=cities",
            f"rollout={arguments.engine}",
            f"rollout.dtype={arguments.dtype}",
            f"k={arguments.k}",
            f"max_completion_length={arguments.longest}",
            f"learner.dtype={arguments.dtype}",
        ]
    )
    tokens: dict[str, list[int]] = {"dqo": [], "engine": []}
    state = {"cursor": 0, "seed": 0}

    def prompts():
        drawn, state["cursor"] = ours.task.draw(state["cursor"], arguments.prompts)
        state["seed"] += 1
        return drawn

    def dqo() -> None:
        parts = list(ours.stages.rollout.generate(prompts(), k=arguments.k, seed=state["seed"]))
        tokens["dqo"].append(sum(int(part.sampled_BT.sum()) for part in parts))

    engine = own_vllm if arguments.engine == "vllm" else own_hf
    rollout = getattr(ours.stages.rollout, "_engine", ours.stages.rollout)  # without its comparison with the learner
    seconds = measuring.in_turn(
        {"dqo": dqo, "engine": lambda: tokens["engine"].append(engine(rollout, ours, prompts(), arguments))},
        rounds=arguments.rounds,
    )
    speeds = {name: sum(tokens[name][1:]) / sum(taken) for name, taken in seconds.items()}
    ratio = speeds["dqo"] / speeds["engine"]
    print(
        f"{arguments.engine} {arguments.dtype}, {arguments.prompts} × {arguments.k} rows of up to {arguments.longest}"
    )
    print(
        f"rollout={arguments.engine} {speeds['dqo']:.0f} tokens/s  the engine's own call {speeds['engine']:.0f} "
        f"{ratio:.2f}×{measuring.verdict(ratio, TARGETS[arguments.engine])}"
    )
    measuring.write(
        arguments.json, machine=machine, arguments=vars(arguments), seconds=seconds, tokens=tokens, ratio=ratio
    )
    return 0


def own_hf(rollout, ours, prompts, arguments) -> int:
    """Number of tokens sampled by one call of model.generate."""
    tokenizer, model = ours.policy.tokenizer, rollout._model
    padded = tokenizer.pad(
        {"input_ids": [list(prompt.tokens) for prompt in prompts]}, padding_side="left", return_tensors="pt"
    )
    with torch.no_grad():
        out = model.generate(
            **padded, max_new_tokens=arguments.longest, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            num_return_sequences=arguments.k,
        )  # fmt: skip
    completions = out[:, padded["input_ids"].shape[1] :]
    ended = completions == tokenizer.eos_token_id
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, completions.shape[1])
    return int(lengths.sum())


def own_vllm(rollout, ours, prompts, arguments) -> int:
    """Number of tokens sampled by one call of LLM.generate."""
    parameters = rollout._parameters()
    parameters.n, parameters.logprobs = arguments.k, None
    outputs = rollout._engine.generate(
        [{"prompt_token_ids": [*prompt.tokens]} for prompt in prompts], parameters, use_tqdm=False
    )
    return sum(len(completion.token_ids) for output in outputs for completion in output.outputs)


if __name__ == "__main__":
    sys.exit(main())
