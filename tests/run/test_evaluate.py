"""Sampling of dqo-eval: every policy with every decoding, kept prompt by prompt, gone on with after a kill."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dqo.config.schema import EvalConfig, PolicySource
from dqo.errors import ConfigError
from dqo.files.answers_table import Cell, Decoding, read, read_about
from dqo.models.folders import save_policy
from dqo.models.origin import MARK
from dqo.records import Answers, Prompt
from dqo.rollout.fake import Fake
from dqo.run.evaluate import sample
from dqo.run.job import Job
from dqo.run.stopping import Stopping
from tests.factories import tiny_llama, word_tokenizer
from tests.helpers.composing import composed_evaluation, with_class


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two policies, one tokenizer and 20 rows."""
    for seed, name in enumerate(("one", "two")):
        save_policy(tiny_llama(seed=seed), word_tokenizer(), tmp_path / name)
    rows = [{"prompt": f"w{n} w{n + 1}", "answer": f"w{n}"} for n in range(20)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def evaluation(folder: Path, *overrides: str, policies: Sequence[str] = ("one",), resume: bool = False) -> EvalConfig:
    config = composed_evaluation(
        "task=jsonl", f"task.path={folder}/my.jsonl", "task.held_out=7", "task.answer_column=answer", "rollout=hf",
        "max_completion_length=6", "n=3", f"run_dir={folder}/run", *overrides,
    )  # fmt: skip
    nodes = {name: {**config.model, "path": str(folder / name)} for name in policies}
    sources = [PolicySource(name=name, path=node["path"], model=node) for name, node in nodes.items()]
    return config.model_copy(update={"policies": sources, "resume": str(folder / "run") if resume else None})


def sampled(config: EvalConfig) -> dict[tuple[Cell, int], Answers]:
    """What a run has on the disk once it is complete, nothing twice."""
    folder = Path(config.run_dir)
    folder.mkdir(exist_ok=True)
    assert sample(Job(config=config, folder=folder, ownership=None, stopping=Stopping()), config)
    return stored(folder)


def stored(folder: Path) -> dict[tuple[Cell, int], Answers]:
    files = [path for path in (folder / "completions").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".parquet"}
    found = [((cell, answers.prompt.position), answers) for cell, answers in read(sorted(files))]
    assert len(dict(found)) == len(found)
    return dict(found)


class Counting(Fake):
    """Notes the prompts that it completes, and fails after ``last`` of them."""

    asked: list[int] = []  # noqa: RUF012 - one list for all engines of a test
    last = 1000

    def generate(self, prompts: Sequence[Prompt], *, k: int, seed: int):
        for rollouts in super().generate(prompts, k=k, seed=seed):
            if len(self.asked) >= self.last:
                raise RuntimeError("killed")
            self.asked.append(rollouts.prompts[0].position)
            yield rollouts


@pytest.fixture
def counting(monkeypatch) -> type[Counting]:
    monkeypatch.setattr(Counting, "asked", [])
    return Counting


def counted(config: EvalConfig) -> EvalConfig:
    made = with_class(config, "rollout", Counting, max_completion_length=6, cut=0.1)
    assert isinstance(made, EvalConfig)
    return made


def test_each_prompt_is_completed_and_judged_once_with_each_policy_and_each_decoding(folder):
    found = sampled(
        evaluation(folder, "decodings=[{temperature:0.3},{temperature:1.5,top_k:5}]", policies=("one", "two"))
    )
    cells = {cell for cell, _ in found}
    assert cells == {
        Cell(policy=name, decoding=Decoding(temperature=temperature, top_p=1.0, top_k=top_k, min_p=0.0))
        for name in ("one", "two")
        for temperature, top_k in ((0.3, 0), (1.5, 5))
    }
    assert {position for _, position in found} == set(range(7)) and len(found) == 28
    assert all(len(answers.texts) == 3 and answers.correct is not None for answers in found.values())
    assert len({tuple(found[cell, n].texts for n in range(7)) for cell in cells}) == 4  # each draws its own
    assert len({answers.prompt.text for answers in found.values()}) == 7  # all are asked the same


def test_a_decoding_equals_a_run_that_has_it_alone(folder):
    """The settings of the one before leave nothing behind."""
    both = sampled(evaluation(folder, "decodings=[{temperature:0.3,top_k:2},{top_p:0.5}]"))
    alone = sampled(evaluation(folder, "rollout.top_p=0.5", f"run_dir={folder}/alone"))
    assert {key: both[key] for key in alone} == alone and len(alone) == 7


def test_greedy_decoding_is_the_limit_of_low_temperatures(folder):
    greedy = sampled(evaluation(folder, "n=1", "decodings=[{temperature:0}]"))
    cold = sampled(evaluation(folder, "n=1", "temperature=0.001", f"run_dir={folder}/cold"))
    assert [answers.texts for answers in greedy.values()] == [answers.texts for answers in cold.values()]


@pytest.mark.parametrize("last", [0, 1, 4, 7, 9])
def test_a_run_that_was_killed_goes_on_where_it_was(folder, counting, monkeypatch, last):
    """Twice, in the first and in the second policy: the same completions as without, and none sampled again."""
    config = counted(evaluation(folder, policies=("one", "two")))
    monkeypatch.setattr(counting, "last", last)
    with pytest.raises(RuntimeError, match="killed"):
        sampled(config)
    monkeypatch.setattr(counting, "last", last + 3)
    with pytest.raises(RuntimeError, match="killed"):
        sampled(config)
    monkeypatch.setattr(counting, "last", 1000)
    found = sampled(config)
    assert sorted(counting.asked) == sorted([*range(7)] * 2)
    assert found == sampled(counted(evaluation(folder, f"run_dir={folder}/whole", policies=("one", "two"))))
    sampled(config)
    assert len(counting.asked) == 28  # a complete run samples nothing


def test_what_was_judged_before_the_reward_failed_is_kept(folder, counting):
    config = counted(evaluation(folder))
    failing = with_class(config, "reward", FailsLate)
    assert isinstance(failing, EvalConfig)
    with pytest.raises(RuntimeError, match="the reward fails"):
        sampled(failing)
    counting.asked.clear()
    assert len(sampled(config)) == 7
    assert len(counting.asked) == 4


class FailsLate:
    """Judges three prompts."""

    def __init__(self):
        self.count = 0

    def score(self, rollouts):
        from dqo.records import Rewards

        self.count += 1
        if self.count > 3:
            raise RuntimeError("the reward fails")
        ones_PK = torch.ones(1, rollouts.k)
        return Rewards(total_PK=ones_PK, parts={}, correct_PK=None, valid_PK=ones_PK.bool())


def test_other_rows_weights_or_templates_than_the_run_had_are_refused(folder):
    sampled(evaluation(folder))
    save_policy(tiny_llama(seed=5), word_tokenizer(), folder / "one")
    (first, *_) = (folder / "run" / "completions").rglob("*.parquet")
    first.unlink()  # something is left to do
    with pytest.raises(ConfigError, match=r"not the weights .*\); start a new run with run_dir=ANOTHER_FOLDER"):
        sampled(evaluation(folder, resume=True))
    rows = (folder / "my.jsonl").read_text().replace("w3", "w5")
    (folder / "my.jsonl").write_text(rows)
    with pytest.raises(ConfigError, match=r"not the .* rows that the run was started with"):
        sampled(evaluation(folder, resume=True))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompts=8"], r"prompts=8: the task holds 7 prompts out; type prompts=7, or task.held_out=NUMBER"),
        (["decodings=[{temperature:0}]"], r"temperature=0 is greedy decoding, and all n=3 .* type n=1"),
        (["decodings=[{temperature:-1}]"], r"rollout.temperature=-1"),
        (["decodings=[{top_p:2}]"], r"rollout.top_p=2"),
        (["decodings=[{temperature:0.5}]", "rollout=fake"], r"rollout.temperature"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_written(folder, overrides, message):
    with pytest.raises(ConfigError, match=message):
        sampled(evaluation(folder, *overrides))
    assert not [*(folder / "run").iterdir()]


def test_policies_that_would_be_asked_different_prompts_are_refused(folder):
    """The second has a shorter context, and the long prompts would be left out for it."""
    model = tiny_llama()
    model.config.max_position_embeddings = 16
    save_policy(model, word_tokenizer(), folder / "two")
    rows = [{"prompt": " ".join(["w1"] * (n + 1)), "answer": "w1"} for n in range(20)]
    (folder / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match=r"one and two would be asked different prompts"):
        sampled(evaluation(folder, "task.skip_long=true", policies=("one", "two")))


def test_a_policy_that_was_trained_with_another_rendering_is_named(folder, caplog):
    then = {"chat": True, "template": "4f0c", "system": None, "chat_template_kwargs": {}}
    (folder / "one" / MARK).write_text(json.dumps({"warm_starts": [], "rendering": then}))
    with caplog.at_level(logging.WARNING):
        sampled(evaluation(folder, policies=("one", "two")))
    lines = [record.getMessage() for record in caplog.records if "rendered otherwise" in record.getMessage()]
    assert len(lines) == 1 and "/one: " in lines[0]
    files = sorted((folder / "run" / "completions").rglob("*.parquet"))
    said = [read_about(file)["other_rendering"] for file in files]
    assert said[0].startswith("plain text now, the chat template in training") and said[1] == ""


class OneAtATime(Fake):
    """An engine that takes no other policy, and of which a process can hold one."""

    def adopt(self, policy, tokenizer) -> bool:
        return False


def test_an_engine_that_cannot_take_the_next_policy_leaves_it_to_a_fresh_process(folder):
    config = evaluation(folder, policies=("one", "two"))
    config = with_class(config, "rollout", OneAtATime, max_completion_length=6, cut=0.1)
    assert isinstance(config, EvalConfig)
    job = Job(config=config, folder=folder, ownership=None, stopping=Stopping())
    assert not sample(job, config)
    assert {cell.policy for cell, _ in stored(folder)} == {"one"}
    assert sample(job, config)
    assert len(stored(folder)) == 14


def test_decodings_of_a_policy_with_a_very_long_name_have_folders_of_their_own(folder):
    config = evaluation(folder, "decodings=[{temperature:0.3},{temperature:0.30000001}]", "prompts=1")
    source = config.policies[0].model_copy(update={"name": f"a/b {'x' * 200}"})
    found = sampled(config.model_copy(update={"policies": [source]}))
    assert [cell.decoding.temperature for cell, _ in found] == [0.3, 0.30000001]
    assert len([*(folder / "run" / "completions").iterdir()]) == 2
