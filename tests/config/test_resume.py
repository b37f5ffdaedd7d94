import json
import os
from datetime import date
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dqo.config import resume
from dqo.config.typed import check, to_yaml
from dqo.errors import ConfigError
from tests.config.builders import composed
from tests.helpers.composing import composed_evaluation


@pytest.fixture
def run(tmp_path):
    """A run that was started with: dqo-train task=concepts steps=20 optim.steps=${steps} run_dir=…"""
    folder = tmp_path / "run"
    folder.mkdir()
    typed = ["task=concepts", "steps=20", "optim.steps=${steps}", f"run_dir={folder}"]
    OmegaConf.save(OmegaConf.create(typed), folder / "overrides.yaml")
    (folder / "config.yaml").write_text(to_yaml(check(config(run_dir=str(folder)))))
    return folder


def config(**changes):
    return composed("task=concepts", **({"steps": 20, "optim__steps": 20, "run_dir": "runs/now"} | changes))


def test_the_saved_command_line_joins_what_is_typed_which_wins(run):
    given = ["--config-dir", "mine", "steps=40", f"resume={run}", "log.live=false"]
    assert resume.with_saved_overrides(given) == [
        "--config-dir", "mine", "steps=40", "task=concepts", "optim.steps=${steps}", f"resume={run}", "log.live=false",
    ]  # fmt: skip


def test_what_was_typed_for_another_engine_is_left_out(run):
    typed = ["learner=deepspeed_zero", "learner.stage=3", "learner.dtype=float32", f"run_dir={run}"]
    OmegaConf.save(OmegaConf.create(typed), run / "overrides.yaml")
    given = ["learner=torch_single", f"resume={run}"]
    assert resume.with_saved_overrides(given) == ["learner=torch_single", "learner.dtype=float32", f"resume={run}"]
    same = ["learner=deepspeed_zero", f"resume={run}"]
    assert "learner.stage=3" in resume.with_saved_overrides(same)


def test_of_a_checkpoint_in_it(run):
    given = [f"resume={run}/checkpoints/step_00010"]
    assert resume.with_saved_overrides(given)[0] == "task=concepts"
    assert resume.run_of(given[0].removeprefix("resume=")) == run
    assert resume.checkpoint_of(given[0]) == "step_00010"
    assert resume.checkpoint_of(str(run)) is None


def test_auto_goes_on_where_there_is_a_run_and_starts_one_where_there_is_none(run, tmp_path):
    assert "task=concepts" in resume.with_saved_overrides([f"run_dir={run}", "resume=auto"])
    fresh = ["task=cities", f"run_dir={tmp_path}/other", "resume=auto"]
    assert resume.with_saved_overrides(fresh) == fresh
    there, not_there = (config(run_dir=str(folder), resume="auto") for folder in (run, tmp_path / "other"))
    assert resume.settle(there, sweep=False) == f"{run} holds a run: going on with it"
    assert resume.settle(not_there, sweep=True) == f"{tmp_path}/other holds no run yet: starting it"
    assert (there.resume, not_there.resume) == (str(run), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resume=auto"], r"^resume=auto: of which run\? type run_dir=FOLDER beside it$"),
        (["resume=nowhere"], "^resume=nowhere: no run is there; type resume=FOLDER_OF_A_RUN$"),
    ],
)
def test_what_there_is_nothing_to_go_on_with(arguments, message):
    with pytest.raises(ConfigError, match=message):
        resume.with_saved_overrides(arguments)


def test_a_run_does_not_go_on_in_another_folder(run, tmp_path):
    with pytest.raises(ConfigError, match=r"resume=.* with run_dir=other: .*; leave run_dir out, or .* resume=other$"):
        resume.with_saved_overrides([f"resume={run}/checkpoints/step_00010", "run_dir=other"])
    assert "task=concepts" in resume.with_saved_overrides([f"resume={run}", f"run_dir={run}/"])


def test_a_folder_without_its_last_file_holds_no_run(run):
    (run / "config.yaml").unlink()  # killed in between
    with pytest.raises(ConfigError, match="no run is there"):
        resume.with_saved_overrides([f"resume={run}"])


def test_one_run_is_no_sweep(run):
    with pytest.raises(ConfigError, match="in a sweep: type resume=auto"):
        resume.settle(config(resume=str(run)), sweep=True)


def test_what_changed_is_named_and_what_may_not_is_refused(run):
    typed = config(resume=str(run), steps=40, optim__steps="${steps}", log__live=False)
    assert resume.changes(typed, check(typed)) == [
        "log.live=False (was True)", "optim.steps=40 (was 20)", "steps=40 (was 20)",
    ]  # fmt: skip
    other = config(resume=str(run), alpha=3.0)
    with pytest.raises(ConfigError, match=r"with alpha=3\.0 \(the run has 1\.0\): only steps, log, eval, checkpoint"):
        resume.changes(other, check(other))


def test_the_judge_of_a_credit_may_have_moved_and_be_no_other_model(tmp_path):
    def typed(**changes):
        judge = ("task=concepts", "credit=partition", "credit.by=judge", "credit.model=m")
        keys = {"resume": str(tmp_path), "run_dir": str(tmp_path), "credit__base_url": "http://here/v1"}
        return composed(*judge, **(keys | changes))

    (tmp_path / "config.yaml").write_text(to_yaml(check(typed())))
    now = typed(credit__base_url="http://there/v1", credit__concurrency=2)
    assert resume.changes(now, check(now)) == [
        "credit.base_url=http://there/v1 (was http://here/v1)", "credit.concurrency=2 (was 8)",
    ]  # fmt: skip
    other = typed(credit__model="other")
    with pytest.raises(ConfigError, match=r"with credit\.model=other \(the run has m\)"):
        resume.changes(other, check(other))


def test_the_service_of_a_reward_may_have_moved_also_as_a_part_of_a_sum(tmp_path):
    def typed(prefix, **changes):
        common = {"resume": str(tmp_path), "run_dir": str(tmp_path), "credit__gate": "none"}
        given = {f"{prefix}url": "http://here", **changes}
        sum_of = ("+reward@reward.parts.rm=remote", "+reward.reward_weights.rm=1.0")
        options = ("reward=remote",) if prefix == "reward__" else ("reward=weighted", *sum_of)
        return composed("task=concepts", *options, **common, **given)

    for prefix in ("reward__", "reward__parts__rm__"):
        key = prefix.replace("__", ".")
        (tmp_path / "config.yaml").write_text(to_yaml(check(typed(prefix))))
        now = typed(prefix, **{f"{prefix}url": ["http://there", "http://too"], f"{prefix}patience": 900.0})
        assert resume.changes(now, check(now)) == [
            f"{key}patience=900.0 (was 300.0)", f"{key}url=['http://there', 'http://too'] (was http://here)",
        ]  # fmt: skip
        other = typed(prefix, **{f"{prefix}form": "openrlhf"})
        with pytest.raises(ConfigError, match=rf"with {key}form=openrlhf \(the run has dqo\)"):
            resume.changes(other, check(other))


def test_a_file_may_have_moved_and_another_reward_function_may_not_be_typed(tmp_path):
    def typed(**changes):
        return composed(
            "task=jsonl", "reward=python", **({"resume": str(tmp_path), "run_dir": str(tmp_path)} | changes)
        )

    old = typed(task__path="my.jsonl", reward__function="r.py:score")
    (tmp_path / "config.yaml").write_text(to_yaml(check(old)))
    now = typed(task__path="/there/my.jsonl", reward__function="/there/r.py:score")
    assert resume.changes(now, check(now)) == [
        "reward.function=/there/r.py:score (was r.py:score)", "task.path=/there/my.jsonl (was my.jsonl)",
    ]  # fmt: skip
    other = typed(task__path="my.jsonl", reward__function="r.py:other")
    with pytest.raises(ConfigError, match=r"with reward.function=r.py:other \(the run has r.py:score\): only steps"):
        resume.changes(other, check(other))


def test_a_run_of_an_older_dqo_keeps_the_number_of_held_out_prompts_that_was_the_default(tmp_path):
    old = composed("task=jsonl", task__path="my.jsonl", task__held_out=64, run_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(to_yaml(check(old)))
    OmegaConf.save(OmegaConf.create(["task=jsonl", "task.path=my.jsonl"]), tmp_path / "overrides.yaml")
    saved = resume.with_saved_overrides([f"resume={tmp_path}"])
    assert saved == ["task=jsonl", "task.path=my.jsonl", "task.held_out=64", f"resume={tmp_path}"]
    assert resume.started_in(check(composed(resume=str(tmp_path)))) is None


def test_a_run_of_an_older_dqo_goes_on_without_the_gate_that_its_task_has_by_now(tmp_path):
    old = composed("task=gsm8k", "credit=dpp", run_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(to_yaml(check(old)))
    OmegaConf.save(OmegaConf.create(["task=gsm8k", "k=4"]), tmp_path / "overrides.yaml")
    saved = resume.with_saved_overrides([f"resume={tmp_path}"])
    assert saved == ["task=gsm8k", "k=4", "credit.gate=none", f"resume={tmp_path}"]
    now = composed("task=gsm8k", credit__gate="none", run_dir=str(tmp_path), resume=str(tmp_path))
    assert not any(text.startswith("credit.") for text in resume.changes(now, check(now)))


def test_a_run_of_an_older_dqo_goes_on_truncating_long_texts(tmp_path):
    now = composed("task=concepts", run_dir=str(tmp_path), resume=str(tmp_path), embed__long_texts="truncate")
    old = check(now).model_dump()
    del old["embed"]["long_texts"], old["embed"]["layers"]
    OmegaConf.save(OmegaConf.create(old | {"resume": None}), tmp_path / "config.yaml")
    OmegaConf.save(OmegaConf.create(["task=concepts"]), tmp_path / "overrides.yaml")
    saved = resume.with_saved_overrides([f"resume={tmp_path}"])
    assert saved == ["task=concepts", "embed.long_texts=truncate", f"resume={tmp_path}"]
    assert resume.changes(now, check(now)) == []


def test_a_run_of_an_older_dqo_goes_on_with_its_rows_in_memory_and_their_order(tmp_path):
    given = {"task__path": "my.jsonl", "task__streaming": False, "run_dir": str(tmp_path), "resume": str(tmp_path)}
    now = composed("task=jsonl", **given)
    old = check(now).model_dump()
    del old["task"]["streaming"], old["task"]["format"]
    OmegaConf.save(OmegaConf.create(old | {"resume": None}), tmp_path / "config.yaml")
    OmegaConf.save(OmegaConf.create(["task=jsonl", "task.held_out=3"]), tmp_path / "overrides.yaml")
    saved = resume.with_saved_overrides([f"resume={tmp_path}"])
    assert saved == ["task=jsonl", "task.held_out=3", "task.streaming=false", f"resume={tmp_path}"]
    assert resume.changes(now, check(now)) == []


def test_a_run_of_an_older_dqo_did_not_normalize_credits(tmp_path):
    now = composed("task=concepts", "advantage=separate", run_dir=str(tmp_path), resume=str(tmp_path))
    old = check(now).model_dump()
    del old["advantage"]["credit_baseline"], old["advantage"]["normalize_credit"]
    OmegaConf.save(OmegaConf.create(old | {"resume": None}), tmp_path / "config.yaml")
    assert resume.changes(now, check(now)) == []


def test_a_template_prints_the_day_of_the_start_after_a_resume_on_another_day(tmp_path):
    def typed(**changes):
        return check(composed("task=gsm8k", run_dir=str(tmp_path), **changes))

    assert resume.date_of_start(typed()) == {"task.date": date.today().isoformat()}
    assert resume.date_of_start(typed(task__date="2024-02-29")) == {}
    (tmp_path / "config.yaml").write_text(to_yaml(typed(task__date="2024-02-29")))
    assert resume.date_of_start(typed(resume=str(tmp_path))) == {"task.date": "2024-02-29"}
    assert resume.date_of_start(check(config())) == {}  # task=concepts uses no chat template


def test_a_run_of_an_older_dqo_without_a_date_and_without_new_switches_is_gone_on_with(tmp_path):
    now = composed("task=jsonl", task__path="my.jsonl", run_dir=str(tmp_path), resume=str(tmp_path))
    old = check(now).model_dump()
    for key in ("date", "merge_messages", "tools_column", "chat_template_kwargs"):
        del old["task"][key]
    OmegaConf.save(OmegaConf.create(old | {"resume": None}), tmp_path / "config.yaml")
    assert resume.date_of_start(check(now)) == {}
    assert resume.changes(now, check(now)) == []


@pytest.mark.parametrize(("then", "now"), [("ppo", "grpo"), ("grpo", "ppo")])
def test_a_critic_is_not_added_to_a_run_or_taken_from_it(tmp_path, then, now):
    saved = composed("task=concepts", f"algorithm={then}", run_dir=str(tmp_path))
    (tmp_path / "config.yaml").write_text(to_yaml(check(saved)))
    typed = composed("task=concepts", f"algorithm={now}", run_dir=str(tmp_path), resume=str(tmp_path))
    with pytest.raises(ConfigError, match=r"^[^\n]* critic\._target_=\S+ \(the run has [^\n]*: only steps, [^\n]*$"):
        resume.changes(typed, check(typed))


@pytest.mark.parametrize(
    ("older", "typed"),
    [("concepts_cpu", ("task=concepts",)), ("cities_gpu", ("task=cities", "rollout=vllm", "learner=deepspeed_zero"))],
)
def test_a_run_of_the_dqo_before_ppo_is_gone_on_with(older, typed, tmp_path):
    """A key that fails here is new: ``resume.ADDED`` has to name it, or an older run is refused for lack of it."""
    saved = OmegaConf.load(Path(__file__).parent / "older_runs" / f"{older}.yaml")
    OmegaConf.save(OmegaConf.merge(saved, {"run_dir": str(tmp_path)}), tmp_path / "config.yaml")
    now = composed(*typed, run_dir=str(tmp_path), resume=str(tmp_path))
    assert resume.changes(now, check(now)) == []


def test_the_folder_of_the_start_is_kept_and_is_no_override(run, tmp_path):
    typed = ["task=concepts", f"hydra.runtime.cwd={tmp_path}/my = project"]
    OmegaConf.save(OmegaConf.create(typed), run / "overrides.yaml")
    assert resume.with_saved_overrides([f"resume={run}"]) == ["task=concepts", f"resume={run}"]
    assert resume.started_in(check(config(resume=str(run)))) == tmp_path / "my = project"
    assert resume.started_in(check(config())) is None


def test_complete_is_a_run_with_its_last_file_and_nothing_new_to_do(run):
    now = check(config(resume=str(run)))
    assert not resume.is_complete(now, [])
    (run / "summary.json").write_text(json.dumps({"steps": 20}))
    assert resume.is_complete(now, ["log.live=False (was True)"])
    assert not resume.is_complete(now, ["eval.n=40 (was 10)"])
    assert not resume.is_complete(now, ["checkpoint.export_dtype=float32 (was auto)"])  # policy/ is written again
    assert not resume.is_complete(check(config(resume=str(run), steps=40)), ["steps=40 (was 20)"])
    assert not resume.is_complete(check(config(resume=f"{run}/checkpoints/step_00010")), [])


def test_an_evaluation_that_was_killed_before_it_was_measured_anew_is_not_complete(tmp_path):
    """resume= with other metrics has written config.yaml, and the old eval.json is still there."""
    now = composed_evaluation(f"run_dir={tmp_path}")
    assert not resume.is_complete(now, [])
    for name, time in (("config.yaml", 1), ("eval.json", 2)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    assert resume.is_complete(now, [])
    assert not resume.is_complete(now, ["eval.metrics=[pcmd] (was [reward])"])
    os.utime(tmp_path / "config.yaml", (3, 3))
    assert not resume.is_complete(now, [])


def test_a_training_run_is_no_evaluation_to_go_on_with(run):
    now = composed_evaluation(f"run_dir={run}").model_copy(update={"resume": str(run)})
    with pytest.raises(ConfigError, match="is a training run and no evaluation; type dqo-eval "):
        resume.changes(OmegaConf.create(), now)


def test_a_run_of_an_older_dqo_has_not_changed_for_lack_of_a_key(run):
    saved = OmegaConf.load(run / "config.yaml")
    del saved.checkpoint.export_dtype
    OmegaConf.save(saved, run / "config.yaml")
    now = config(resume=str(run))
    assert not any("export_dtype" in text for text in resume.changes(now, check(now)))
