"""Supervised fine-tuning on a task's demonstrations: a warm start for a model that does not solve its task yet."""

import hashlib
import inspect
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler

from dqo import __version__, distributed
from dqo.capabilities import Demonstrating
from dqo.config.schema import Config
from dqo.errors import ConfigError
from dqo.models import cached_folder
from dqo.models.origin import Origin
from dqo.progress import LoggedBar
from dqo.records import Prompt
from dqo.rollout.sampling.record import end_tokens
from dqo.run.build import make_device
from dqo.stages import Task

log = logging.getLogger(__name__)
DEMONSTRATIONS = 20_000  # drawn from the task, at most
COMPARED = 256  # demonstrations that say whether two tasks have the same ones
IGNORED = -100  # transformers' label of a token without loss
WEIGHTS = "model.safetensors"
NO_RESULT = ("auto_map", "dtype", "torch_dtype", "transformers_version")  # of config.json: names of places, versions

Demonstrations = Sequence[tuple[Prompt, str]]
Examples = Sequence[tuple[list[int], list[int]]]  # tokens of prompt and completion, the end token included


def demonstrations_of(config: Config, task: Task) -> Demonstrations:
    """The task's example answers. Raises ConfigError for a task that has none."""
    return _demonstrating(task).demonstrations(DEMONSTRATIONS, seed=config.sft.seed)


def fingerprint(task: Task) -> str:
    """A hash of the task's first demonstrations, the same for every ``sft.seed`` and tokenizer. Raises ConfigError for
    a task that has none."""
    pairs = [(prompt.content, text) for prompt, text in _demonstrating(task).demonstrations(COMPARED, seed=0)]
    return hashlib.sha256(json.dumps(pairs, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def is_wanted(config: Config, origin: Origin, task: Task, name: str) -> bool:
    """Whether ``warm_start`` asks for one that the weights have not had; logs why not. ``name``: of the model."""
    if not config.warm_start or config.warm_start == "always":
        return bool(config.warm_start)
    if fingerprint(task) in origin.warm_starts:
        log.info(
            "warm start: left out, model.path=%s was fine-tuned on these demonstrations already; type "
            "warm_start=always to do it again", name,
        )  # fmt: skip
        return False
    if origin.warm_starts:
        log.info(
            "warm start: model.path=%s was fine-tuned on other demonstrations; type warm_start=false to leave this one "
            "out", name,
        )  # fmt: skip
    return True


def warm_started(
    config: Config, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task
) -> PreTrainedModel:
    """The model, fine-tuned in place, with weights from the cache or written to it. A collective: rank 0 trains.

    The cache's key is the content of everything that the result depends on, and no path.
    """
    examples = encoded(demonstrations_of(config, task), model, tokenizer)

    def build(folder: Path) -> None:
        log.info("warm start: %d steps on the demonstrations of the task (once; cached)", config.sft.steps)
        loss = finetune_as_configured(config, model, examples, what="warm start")
        log.info("warm start: loss %.3f nats a token", loss)
        save_model(model, str(folder / WEIGHTS))

    key = distributed.broadcast(_key(config, model, examples) if distributed.is_rank_0() else "")
    load_model(model, cached_folder(f"warm-{key}", build) / WEIGHTS)
    return model.eval()


def _key(config: Config, model: PreTrainedModel, examples: Examples) -> str:
    """A hash of weights, architecture, its code, examples and the numbers of ``sft``."""
    with ThreadPoolExecutor() as pool:  # hashing releases the GIL
        weights = list(pool.map(_digest, model.state_dict().values()))
    architecture = {key: value for key, value in model.config.to_diff_dict().items() if key not in NO_RESULT}
    code = hashlib.sha256(Path(inspect.getfile(type(model))).read_bytes()).hexdigest()
    parts = [__version__, weights, list(model.state_dict()), architecture, code, examples, config.sft.model_dump()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(content.flatten().view(torch.uint8).numpy().data).hexdigest()


def _demonstrating(task: Task) -> Demonstrating:
    if not isinstance(task, Demonstrating):
        raise ConfigError(f"{type(task).__name__} shows no answers to fine-tune on; type warm_start=false")
    return task


def encoded(demonstrations: Demonstrations, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Examples:
    """Tokens of each demonstration. A completion that ends in an end token, as the chat template's do, gets no other.

    Raises ConfigError for a token that the model has no row for.
    """
    ends, rows = end_tokens(model, tokenizer, ()), model.get_input_embeddings().num_embeddings
    texts, examples = [text for _, text in demonstrations], []
    completions = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for (prompt, text), completion in zip(demonstrations, completions, strict=True):
        if not completion or completion[-1] not in ends:
            completion.append(tokenizer.eos_token_id)
        if max(completion) >= rows:
            token = tokenizer.convert_ids_to_tokens(max(completion))
            raise ConfigError(
                f"an example answer has the token {token}, for which the model has no row ({text[:60]!r}); remove it"
            )
        examples.append((list(prompt.tokens), completion))
    return examples


def finetune_as_configured(config: Config, model: PreTrainedModel, examples: Examples, *, what: str) -> float:
    """``finetune`` with the numbers of ``sft``, on the configured device; logs how far it is. ``what``: the name of the
    work."""
    torch.nn.Module.to(model, make_device(config))  # in place; transformers' own ``to`` hides its types
    sft = config.sft
    with LoggedBar(total=sft.steps, desc=what, unit="steps") as bar:
        return finetune(
            model,
            examples,
            steps=sft.steps,
            batch_size=sft.batch_size,
            learning_rate=sft.learning_rate,
            seed=sft.seed,
            bar=bar,
        )


def finetune(
    policy: PreTrainedModel,
    examples: Examples,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    bar: LoggedBar,
) -> float:
    """Train ``policy`` in place; returns the mean loss of the last tenth of steps, in nats a token.

    The loss is on the completion and its end token; AdamW with linear decay, gradients clipped at norm 1.
    """
    device, generator = policy.device, torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=learning_rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, num_warmup_steps=min(20, steps // 10), num_training_steps=steps)
    losses = []
    policy.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of the model's dropout
        for _ in range(steps):
            chosen = torch.randint(len(examples), (batch_size,), generator=generator).tolist()
            batch = (tensor.to(device) for tensor in padded_batch([examples[i] for i in chosen]))
            tokens_BT, labels_BT, mask_BT = batch
            logits_BTV = policy(input_ids=tokens_BT, attention_mask=mask_BT).logits.float()
            loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix_str(f"loss {losses[-1]:.3f}", refresh=False)
            bar.update()
    policy.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def padded_batch(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels (IGNORED on prompt and padding) and attention mask of [prompt, completion], padded on the right:
    (B, T) each."""
    width = max(len(prompt) + len(completion) for prompt, completion in examples)
    tokens_BT = torch.zeros(len(examples), width, dtype=torch.long)
    labels_BT = torch.full_like(tokens_BT, IGNORED)
    mask_BT = torch.zeros_like(tokens_BT)
    for b, (prompt, completion) in enumerate(examples):
        end = len(prompt) + len(completion)
        tokens_BT[b, :end] = torch.tensor(prompt + completion)
        labels_BT[b, len(prompt) : end] = torch.tensor(completion)
        mask_BT[b, :end] = 1
    return tokens_BT, labels_BT, mask_BT
