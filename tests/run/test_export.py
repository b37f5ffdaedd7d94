"""What a run leaves in policy/ samples as the run did, in the type that the weights came in."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, pipeline

from dqo.config.schema import Config
from dqo.models.folders import save_policy
from dqo.models.origin import Origin
from dqo.models.rounding import rounded
from dqo.observe.sampling_code import sampling_code
from dqo.run.build import Policy
from dqo.run.export import export_dtype, export_policy
from tests.factories import make_prompts, tiny_llama, word_tokenizer
from tests.helpers.composing import composed

MODEL = ("model=tiny", "task=concepts", "rollout=hf", "device=cpu", "run_dir=run")
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
GREEDY = {"temperature": 0.05, "top_k": 5, "top_p": 0.7, "do_sample": True, "repetition_penalty": 1.4,
          "no_repeat_ngram_size": 3, "max_length": 40, "suppress_tokens": [9], "typical_p": 0.9}  # fmt: skip


def policy_of(model: PreTrainedModel, origin: Origin = Origin()) -> Policy:  # noqa: B008 - frozen
    device = torch.device("cpu")
    return Policy(name="base", model=model, tokenizer=word_tokenizer(), device=device, inputs={}, origin=origin)


def export(folder: Path, *overrides: str, model: PreTrainedModel | None = None, base=MODEL) -> GenerationConfig:
    export_policy(composed(*overrides, base=base), policy_of(model or tiny_llama()), folder)
    return GenerationConfig.from_pretrained(folder)


def based_on(folder: Path, settings: dict, *, file: str) -> PreTrainedModel:
    """A model whose folder has these parameters of generation in one of its files."""
    save_policy(tiny_llama(), word_tokenizer(), folder)
    content = json.loads((folder / file).read_text()) | settings
    (folder / file).write_text(json.dumps(content))
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_the_policy_does_not_sample_as_its_base_model_did(tmp_path, file):
    """Qwen's and Llama's folders have a temperature, top_k and top_p."""
    written = export(tmp_path / "policy", model=based_on(tmp_path / "base", GREEDY, file=file))
    assert {key: getattr(written, key) for key in NEUTRAL} == NEUTRAL and written.do_sample
    assert written.max_new_tokens == 24  # of task=concepts
    kept = {"eos_token_id", "pad_token_id", "bos_token_id", "do_sample", "max_new_tokens", "transformers_version"}
    assert json.loads((tmp_path / "policy" / "generation_config.json").read_text()).keys() <= kept | NEUTRAL.keys()


def test_temperature_filters_and_longest_completion_of_the_run_are_written(tmp_path):
    typed = {"temperature": 0.8, "top_p": 0.9, "top_k": 7, "min_p": 0.05, "repetition_penalty": 1.1}
    keys = [f"rollout.{key}={value}" for key, value in typed.items() if key != "temperature"]
    written = export(tmp_path / "policy", "temperature=0.8", "max_completion_length=9", *keys)
    assert {key: getattr(written, key) for key in typed} == typed and written.max_new_tokens == 9


def test_a_rollout_without_sampling_keys_gives_the_keys_of_the_top_level(tmp_path):
    written = export(tmp_path / "policy", "rollout=fake", "temperature=0.8")
    assert (written.temperature, written.top_k, written.max_new_tokens) == (0.8, 0, 24)


def test_every_end_token_of_the_base_and_of_the_run_is_kept(tmp_path):
    model = tiny_llama()
    model.generation_config.eos_token_id = [1, 9, 40]
    written = export(tmp_path / "policy", "rollout.stop_tokens=[w2]", model=model)
    assert (written.eos_token_id, written.pad_token_id) == ([1, 5, 9, 40], 0)
    assert export(tmp_path / "other").eos_token_id == 1


def test_parameters_of_a_task_in_the_config_do_not_reach_the_pipeline(tmp_path):
    """GPT-2's config.json has some; transformers' pipeline prefers them to generation_config.json."""
    greedy = {"task_specific_params": {"text-generation": {"temperature": 0.3, "max_length": 50}, "other": {"a": 1}}}
    export(tmp_path / "policy", model=based_on(tmp_path / "base", greedy, file="config.json"))
    used = pipeline("text-generation", str(tmp_path / "policy")).generation_config
    assert {key: getattr(used, key) for key in NEUTRAL} == NEUTRAL and used.max_new_tokens == 24
    assert json.loads((tmp_path / "policy" / "config.json").read_text())["task_specific_params"] == {"other": {"a": 1}}


def test_generate_draws_from_the_distribution_that_the_run_drew_from(tmp_path):
    model = tiny_llama()
    model.generation_config = GenerationConfig(**GREEDY, eos_token_id=1)
    export(tmp_path / "policy", "max_completion_length=1", model=model)
    torch.manual_seed(0)
    back, tokens = AutoModelForCausalLM.from_pretrained(tmp_path / "policy"), torch.tensor([[5, 6, 7]])
    draws = back.generate(tokens, attention_mask=torch.ones_like(tokens), num_return_sequences=4000)[:, 3:]
    assert draws.shape == (4000, 1)
    expected = model(tokens).logits[0, -1].softmax(-1)
    found = torch.bincount(draws.flatten(), minlength=63) / 4000
    assert (found - expected).abs().sum() < 0.15  # a total variation that 4,000 draws of 63 tokens have


def test_the_printed_code_samples_from_the_policy(tmp_path):
    """As it stands in the command at the end of a run, and in the model card."""
    export(tmp_path / "policy")
    prompt = make_prompts(1)[0]
    for rendered in (prompt.content, None):
        code = sampling_code(str(tmp_path / "policy"), prompt, rendered, count=3)
        assert not any(word in " ".join(code) for word in ("temperature", "top_", "do_sample", "max_"))
        with contextlib.redirect_stdout(printed := io.StringIO()):
            exec("; ".join(code), {})
        assert len(printed.getvalue().splitlines()) == 3


def exported(folder: Path, chosen: str, came_in: torch.dtype | None, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    config: Config = composed(f"checkpoint.export_dtype={chosen}", base=MODEL)
    policy = policy_of(model, Origin(dtype=came_in))
    export_policy(config, policy, folder, weights=iter(model.state_dict().items()))
    assert export_dtype(config, policy) == (came_in or torch.float32 if chosen == "auto" else getattr(torch, chosen))
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("chosen", "came_in", "expected"),
    [
        ("auto", torch.bfloat16, torch.bfloat16),
        ("auto", torch.float16, torch.float16),
        ("auto", torch.float32, torch.float32),
        ("auto", None, torch.float32),  # not known: as the learner has it
        ("float32", torch.bfloat16, torch.float32),
        ("bfloat16", torch.float32, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_policy_has_the_type_that_the_model_came_in_or_the_one_typed(tmp_path, chosen, came_in, expected, tied):
    model = tiny_llama(tied=tied)
    tensors = exported(tmp_path / "policy", chosen, came_in, model)
    assert {tensor.dtype for tensor in tensors.values()} == {expected}
    assert ("lm_head.weight" in tensors) != tied
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert back.dtype == expected  # config.json says so
    assert all(
        torch.equal(tensor, rounded(model.state_dict()[name], expected)) for name, tensor in back.state_dict().items()
    )
    assert model.dtype == torch.float32  # the learner's own weights


def test_modules_that_transformers_computes_in_float32_are_saved_in_it(tmp_path):
    model = tiny_llama()
    model._keep_in_fp32_modules_strict = {"q_proj"}
    tensors = exported(tmp_path / "policy", "bfloat16", torch.bfloat16, model)
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.float32} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)
    }


def test_the_folder_can_be_a_policy_again(tmp_path):
    """With the model card, the mark of its warm starts and its tokenizer."""
    origin = Origin(dtype=torch.bfloat16, warm_starts=("a", "b"))
    policy = replace(policy_of(tiny_llama()), origin=origin)
    export_policy(composed(base=MODEL), policy, tmp_path / "policy", warm_start="b", files={"README.md": "# card"})
    assert json.loads((tmp_path / "policy" / "dqo.json").read_text())["warm_starts"] == ["a", "b"]
    assert (tmp_path / "policy" / "README.md").read_text() == "# card"
    assert AutoTokenizer.from_pretrained(tmp_path / "policy")("w1")["input_ids"] == [4]
