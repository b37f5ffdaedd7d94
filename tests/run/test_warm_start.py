"""A warm start: cached by what is in the model and the task, and not done twice. The examples of fine-tuning."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from dqo import progress
from dqo.errors import ConfigError
from dqo.models.folders import save_policy
from dqo.progress import LoggedBar
from dqo.run import warm_start
from dqo.run.export import export_policy
from dqo.run.load_policy import load_policy
from dqo.run.warm_start import encoded, finetune
from tests.factories import make_prompts, tiny_llama, word_tokenizer
from tests.helpers.composing import composed

ROWS = [{"prompt": f"w{n} w{n + 1}", "answer": f"w{n + 2}"} for n in range(9)]


@pytest.fixture
def here(tmp_path, monkeypatch, caplog) -> Path:
    """The folder of the start, with my.jsonl and a model in ``model``."""
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(warm_start, "DEMONSTRATIONS", 30)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "dqo")
    write_rows(ROWS)
    save_policy(tiny_llama(), word_tokenizer(), tmp_path / "model")
    return tmp_path


def write_rows(rows: list[dict]) -> None:
    Path("my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def start(*overrides: str, path: str = "model"):
    """The policy of a run with a warm start of two steps."""
    given = (
        "task=jsonl", "task.path=my.jsonl", "task.completion_column=answer", "task.chat_template=false",
        "task.held_out=1", "reward=python", "reward.function=reward.py:score", "model=hf", f"model.path={path}",
        "max_completion_length=8", "warm_start=true", "sft.steps=2", "sft.batch_size=2", "rollout=hf", "device=cpu",
    )  # fmt: skip
    return load_policy(composed(*given, *overrides, base=("embed=fake", "run_dir=run")), judged=False)[0]


def weights(policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def differ(some: dict, others: dict) -> bool:
    return any(not torch.equal(some[name], others[name]) for name in some)


def kept() -> int:
    """Warm starts in the cache."""
    return len([path for path in Path("cache").glob("warm-*") if path.is_dir()])


def edit(file: str, **changes) -> None:
    content = json.loads(Path(file).read_text()) | changes
    Path(file).write_text(json.dumps(content))


def test_other_weights_behind_the_same_path_are_warm_started_themselves(here):
    first = weights(start())
    save_policy(tiny_llama(seed=1), word_tokenizer(), Path("model"))
    assert differ(first, weights(start())) and kept() == 2


def test_a_single_weight_of_another_value_is_another_model(here):
    first = weights(start())
    tensors = load_file("model/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 1e-3
    save_file(tensors, "model/model.safetensors", metadata={"format": "pt"})
    assert differ(first, weights(start())) and kept() == 2


def test_the_same_weights_at_another_path_share_a_warm_start(here, monkeypatch, caplog):
    first = weights(start())
    shutil.copytree("model", "elsewhere/copy")
    second = start(path="elsewhere/copy")
    monkeypatch.chdir(here / "elsewhere")
    shutil.copy(here / "my.jsonl", "my.jsonl")
    third = start(path=str(here / "elsewhere" / "copy"))
    assert not differ(first, weights(second)) and not differ(first, weights(third))
    assert caplog.text.count("(once; cached)") == 1


@pytest.mark.parametrize("what", ["tokens", "architecture", "examples", "sft"])
def test_whatever_changes_the_result_gets_a_warm_start_of_its_own(here, what):
    start()
    if what == "tokens":  # of the same texts and weights
        model = json.loads(Path("model/tokenizer.json").read_text())["model"]
        model["vocab"] |= {"w1": 40, "w37": 4}
        edit("model/tokenizer.json", model=model)
    elif what == "architecture":
        edit("model/config.json", rms_norm_eps=1e-2)
    elif what == "examples":
        write_rows([{**row, "answer": "w50"} for row in ROWS])
    start("sft.learning_rate=1e-3" if what == "sft" else "sft.steps=2")
    assert kept() == 2


def test_a_model_from_the_cache_is_the_one_that_was_asked_for_but_for_its_weights(here):
    """Its end tokens and its attention are not those of the run that filled the cache."""
    start()
    edit("model/generation_config.json", eos_token_id=[1, 60])
    policy = start("model.attn_implementation=eager")
    assert kept() == 1
    assert policy.model.generation_config.eos_token_id == [1, 60]
    assert policy.model.config._attn_implementation == "eager"


def written(policy, folder: str = "run/policy") -> str:
    """The folder that a run writes at its end."""
    export_policy(composed(base=("model=tiny", "task=concepts", "run_dir=run")), policy, Path(folder))
    return folder


def test_a_policy_is_not_warm_started_again(here, caplog):
    first = start()
    second = start(path=written(first))
    assert not differ(weights(first), weights(second)) and kept() == 1
    assert caplog.text.count("left out, model.path=run/policy was fine-tuned on these demonstrations already") == 1
    assert "type warm_start=always" in caplog.text
    third = start("sft.seed=5", path=written(second, "run 2/policy"))  # a policy of a policy; other draws of the rows
    assert not differ(weights(first), weights(third)) and kept() == 1


def test_always_warm_starts_a_policy_again(here):
    first = start()
    assert differ(weights(first), weights(start("warm_start=always", path=written(first)))) and kept() == 2


def test_a_policy_of_other_demonstrations_is_warm_started(here, caplog):
    folder = written(start())
    write_rows([{**row, "answer": "w50"} for row in ROWS])
    start(path=folder)
    assert kept() == 2
    assert "model.path=run/policy was fine-tuned on other demonstrations; type warm_start=false" in caplog.text


def test_a_policy_that_was_trained_without_a_warm_start_gets_one(here):
    folder = written(start("warm_start=false"))
    start(path=folder)
    assert kept() == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"warm_starts": 3}', '{"warm_starts": [3]}', "\xff"])
def test_a_mark_that_dqo_has_not_written_is_ignored(here, content):
    Path("model/dqo.json").write_text(content, "latin-1")
    start()
    assert kept() == 1


def test_a_warm_start_says_how_far_it_is(here, caplog, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    start("sft.steps=60")
    assert "warm start: 60 steps" in caplog.text and " of 60 steps, loss " in caplog.text


def test_an_example_answer_that_the_model_has_no_row_for_is_refused():
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["<more>"])
    with pytest.raises(ConfigError, match=r"has the token <more>, for which the model has no row \('w1 <more>'\)"):
        encoded([(make_prompts(1)[0], "w1 <more>")], tiny_llama(), tokenizer)


def test_dropout_of_a_warm_start_depends_on_its_own_seed():
    """The cache would otherwise hold what another ``seed`` of the run has made."""
    examples = encoded([(prompt, "w1 w2") for prompt in make_prompts(4)], tiny_llama(), word_tokenizer())
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=63, n_embd=32, n_layer=1, n_head=2, n_positions=64, attn_pdrop=0.5)
        model = GPT2LMHeadModel(config)
        torch.manual_seed(seed)
        finetune(model, examples, steps=2, batch_size=2, learning_rate=1e-2, seed=0, bar=LoggedBar())
        found.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    assert not differ(*found)


def test_a_completion_that_ends_as_the_chat_template_does_gets_no_second_end():
    tokenizer, (prompt,), model = word_tokenizer(), make_prompts(1), tiny_llama()
    end = tokenizer.convert_tokens_to_ids("w2")
    pairs = [(prompt, "w7 w2"), (prompt, "w7")]
    assert [completion for _, completion in encoded(pairs, model, tokenizer)] == [[10, end, 1], [10, 1]]
    model.generation_config.eos_token_id = [1, end]  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    assert [completion for _, completion in encoded(pairs, model, tokenizer)] == [[10, end], [10, 1]]
