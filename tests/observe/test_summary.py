import io
import json
import shlex

from rich.console import Console

from dqo.observe.summary import next_commands, print_end, write_summary
from tests.helpers.steps import make_evaluation

BEFORE, AFTER = make_evaluation(0.25), make_evaluation(0.75)


def test_the_summary_has_the_documented_keys(tmp_path):
    write_summary(tmp_path / "summary.json", settings={"task": "cities", "alpha": 1.0}, before=BEFORE, after=AFTER)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["task"], summary["alpha"], summary["n"]) == ("cities", 1.0, 4)
    documented = {"reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "logdet"}
    assert documented <= summary["before"].keys() and documented <= summary["after"].keys()
    assert (summary["before"]["pass@1"], summary["after"]["pass@1"]) == (0.25, 0.75)
    assert summary["after"]["cosine_distance/correct"] is None


def test_the_end_shows_both_evaluations_and_the_files_that_exist(tmp_path):
    for name in ("policy", "checkpoints"):
        (tmp_path / name).mkdir()
    console = Console(file=(file := io.StringIO()), width=200, _environ={})
    print_end(console, run_dir=tmp_path, steps=60, before=BEFORE, after=AFTER)
    text = file.getvalue()
    row = next(line for line in text.splitlines() if line.startswith("pass@1 "))
    assert row.split() == ["pass@1", "0.250", "0.750", "+0.500"]
    assert "cosine_distance/correct" in text and "–" in text
    assert f"{tmp_path}/policy" in text and "curves.png" not in text
    assert f"dqo-train resume={tmp_path} steps=120" in text


def test_the_commands_name_the_run_and_survive_the_shell(tmp_path):
    run = tmp_path / "it's mine"
    for name in ("policy", "checkpoints"):
        (run / name).mkdir(parents=True)
    commands = [shlex.split(command) for _, command in next_commands(run, 60, 40)]
    assert commands[0] == ["dqo-sample", str(run)]
    assert commands[1] == ["dqo-eval", str(run), "n=40"]
    assert commands[2] == ["dqo-train", f"resume={run}", "steps=120"]
    assert commands[4] == ["dqo-report", str(run)]


def test_a_run_whose_reference_samples_cover_its_steps_alone_is_not_told_to_take_more(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "references.parquet").touch()
    assert "go on training" not in dict(next_commands(tmp_path, 60, 10))


def test_a_run_without_policy_and_checkpoint_has_a_sweep_and_a_report(tmp_path):
    assert [command.split()[0] for _, command in next_commands(tmp_path, 60, 10)] == ["dqo-train", "dqo-report"]


def test_the_next_sweep_is_one_of_the_task_that_was_run(tmp_path):
    typed = ["task=jsonl", "task.path=/data/my prompts.jsonl", "alpha=0.3", "k=6", "run_dir=runs/a", "+x.alpha=1"]
    _, command = next_commands(tmp_path, 60, 10, typed)[0]
    sweep = [
        "dqo-train",
        "-m",
        "alpha=0,0.5,1,2",
        "task=jsonl",
        "task.path=/data/my prompts.jsonl",
        "k=6",
        "+x.alpha=1",
    ]
    assert shlex.split(command) == sweep


def test_the_next_sweep_of_a_run_without_credit_has_one(tmp_path):
    _, command = next_commands(tmp_path, 60, 10, ["model=tiny", "credit=none"])[0]
    assert command == "dqo-train -m alpha=0,0.5,1,2 model=tiny"


def test_groups_of_one_are_not_told_to_raise_alpha(tmp_path):
    ((_, command),) = next_commands(tmp_path, 60, 10, ["algorithm=ppo", "k=1", "alpha=0"])
    assert command.split()[0] == "dqo-report"


def test_a_job_of_a_sweep_names_no_other_sweep(tmp_path):
    (tmp_path / "policy").mkdir()
    assert [command.split()[0] for _, command in next_commands(tmp_path, 60, 10, None)] == ["dqo-sample", "dqo-eval"]
