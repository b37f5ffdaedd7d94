import io
import json
import shlex
from dataclasses import replace

from rich.console import Console

from dqo.observe.summary import next_commands, print_end, write_summary
from dqo.records import Prompt
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


def test_the_sampling_command_is_valid_python_after_shell_quoting(tmp_path):
    run = tmp_path / "it's mine"
    (run / "policy").mkdir(parents=True)
    nasty = Prompt(position=0, tokens=(3,), content=({"role": "user", "content": 'Say "it\'s" $HOME\n'},), columns={})
    evaluation = replace(AFTER, answers=(replace(AFTER.answers[0], prompt=nasty),))
    _, command = next_commands(run, 60, evaluation)[0]
    python, flag, code = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    compile(code, "command", "exec")
    assert json.dumps('Say "it\'s" $HOME\n') in code and f"{run}/policy" in code
    assert "\n" not in command


def test_the_sampling_command_gives_the_prompt_as_the_run_rendered_it(tmp_path):
    """The chat template's words were missing where the prompt was a text."""
    (tmp_path / "policy").mkdir()
    rendered = "<|im_start|>user\nWhere?<|im_end|>\n<|im_start|>assistant\n"
    _, command = next_commands(tmp_path, 60, AFTER, rendered=rendered)[0]
    assert f"tokenizer({json.dumps(rendered)}, add_special_tokens=False" in shlex.split(command)[2]


def test_a_long_prompt_of_a_chat_leaves_the_template_in_the_command(tmp_path):
    (tmp_path / "policy").mkdir()
    text = "word " * 500
    long = replace(AFTER.answers[0], prompt=Prompt(position=0, tokens=(3,), content=text, columns={}))
    _, command = next_commands(tmp_path, 60, replace(AFTER, answers=(long,)), rendered=f"<user>{text}<end>")[0]
    assert 'apply_chat_template([{"role": "user", "content": "YOUR PROMPT"}], add_generation_prompt=True' in command


def test_a_long_prompt_is_left_out_of_the_command(tmp_path):
    (tmp_path / "policy").mkdir()
    long = Prompt(position=0, tokens=(3,), content="word " * 500, columns={})
    _, command = next_commands(tmp_path, 60, replace(AFTER, answers=(replace(AFTER.answers[0], prompt=long),)))[0]
    assert "YOUR PROMPT" in command and len(command) < 500


def test_the_next_sweep_is_one_of_the_task_that_was_run(tmp_path):
    typed = ["task=jsonl", "task.path=/data/my prompts.jsonl", "alpha=0.3", "k=6", "run_dir=runs/a", "+x.alpha=1"]
    *_, (_, command) = next_commands(tmp_path, 60, AFTER, typed)
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
