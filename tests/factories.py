"""Small records and models that tests build on. Real classes with tiny sizes, no mocks."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dqo.records import Experience, LossInputs, Prompt, Rewards, Rollouts

WORDS = [f"w{i}" for i in range(60)]


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Word-level, white space between words; <pad> is 0, <eos> 1, <unk> 2."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def tiny_llama(vocabulary: int = 63, *, tied: bool = True, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """Random fp32 Llama of 64 channels, sharp enough (std 0.2) that its distributions are not flat."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def make_prompts(count: int, *, length: int = 4, seed: int = 0, **columns) -> tuple[Prompt, ...]:
    """Prompts of random words; prompt p is ``length + p`` tokens long, so that padding is met."""
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for p in range(count):
        tokens = torch.randint(3, 63, (length + p,), generator=generator).tolist()
        prompts.append(
            Prompt(position=p, tokens=tuple(tokens), content=" ".join(WORDS[t - 3] for t in tokens), columns=columns)
        )
    return tuple(prompts)


def make_rollouts(
    texts: Sequence[str], k: int, *, prompts: Sequence[Prompt] | None = None, finished: Sequence[bool] | None = None
) -> Rollouts:
    """Rollouts of the given completions (words of WORDS, or any text: unknown words become <unk>), end token included
    where finished. Log-probabilities are those of a uniform policy."""
    tokenizer = word_tokenizer()
    prompts = tuple(prompts) if prompts is not None else make_prompts(len(texts) // k)
    finished = [True] * len(texts) if finished is None else list(finished)
    rows = [
        (list(prompts[b // k].tokens), tokenizer(text)["input_ids"] + [1] * done)
        for b, (text, done) in enumerate(zip(texts, finished, strict=True))
    ]
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    tokens_BT = torch.zeros(len(rows), width, dtype=torch.long)
    sampled_BT = torch.zeros(len(rows), width, dtype=torch.bool)
    for b, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens_BT[b, :end] = torch.tensor(prompt + completion)
        sampled_BT[b, len(prompt) : end] = True
    return Rollouts(
        prompts=prompts, k=k, tokens_BT=tokens_BT, sampled_BT=sampled_BT,
        logprobs_BT=torch.where(sampled_BT, -torch.log(torch.tensor(63.0)), torch.tensor(0.0)),
        lengths_B=torch.tensor([len(p) + len(c) for p, c in rows]), finished_B=torch.tensor(finished),
        versions_B=torch.zeros(len(rows), dtype=torch.long), texts=tuple(texts),
    )  # fmt: skip


def make_rewards(total: Sequence[Sequence[float]] | Tensor, *, valid: Tensor | None = None) -> Rewards:
    """Rewards of one part named "check"; correct where the reward is positive."""
    total_PK = torch.as_tensor(total, dtype=torch.float32)
    valid_PK = torch.ones_like(total_PK, dtype=torch.bool) if valid is None else valid
    return Rewards(total_PK=total_PK, parts={"check": total_PK}, correct_PK=total_PK > 0, valid_PK=valid_PK)


def make_experience(prompts: int = 2, k: int = 4, *, dim: int = 8, words: int = 5, seed: int = 0) -> Experience:
    """Random completions of 2 to ``words`` words, 0/1 rewards, unit embeddings, random credits in dpp's range."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for _ in range(prompts * k):
        count = int(torch.randint(2, words + 1, (), generator=generator))
        texts.append(" ".join(WORDS[i] for i in torch.randint(0, 60, (count,), generator=generator).tolist()))
    embeddings_PKD = torch.nn.functional.normalize(torch.randn(prompts, k, dim, generator=generator), dim=-1)
    return Experience(
        rollouts=make_rollouts(texts, k),
        rewards=make_rewards(torch.randint(0, 2, (prompts, k), generator=generator).float()),
        embeddings_PKD=embeddings_PKD,
        credits_PK=torch.rand(prompts, k, generator=generator) * 0.5 + 0.2,
    )


def make_loss_inputs(logprobs_N: Tensor, **fields) -> LossInputs:
    """Tokens of one completion, on-policy, of weight 1 and advantage 0, without reference or critic, but for
    ``fields``."""
    same_N, zeros_N = logprobs_N.detach(), torch.zeros(len(logprobs_N))
    defaults = {
        "old_logprobs_N": same_N, "sampler_logprobs_N": same_N, "ref_logprobs_N": None, "entropies_N": zeros_N,
        "advantages_N": zeros_N, "values_N": None, "returns_N": None, "weights_N": torch.ones(len(logprobs_N)),
        "stale_N": zeros_N.bool(), "rows_N": zeros_N.long(),
    }  # fmt: skip
    return LossInputs(logprobs_N=logprobs_N, **(defaults | fields))
