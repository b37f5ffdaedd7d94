"""What a dry run prints, and that it closes what it has opened."""

from dqo.reward.check import Check
from dqo.run.dry_run import run
from dqo.run.job import Job
from dqo.run.stopping import Stopping
from tests.helpers.composing import composed, with_class

CLOSED = []
ANSWERS = ("3 1/2", "50%", "$18", "1,234", "7")


class Connected(Check):
    """A reward of one's own with a connection to close."""

    def __init__(self, task):
        super().__init__(task, mask_truncated_completions=False)

    def memory(self):
        return {"judge": 3_000_000_000}

    def close(self) -> None:
        CLOSED.append(self)


def test_a_dry_run_shows_batch_memory_and_prompt_and_closes_its_stages(tmp_path, capsys):
    config = with_class(composed("task=concepts"), "reward", Connected)
    job = Job(config=config, folder=tmp_path, ownership=None, stopping=Stopping())
    run(job)
    text = capsys.readouterr().out
    assert "2 prompts × k=4 = 8 completions" in text and "the first prompt, 4 tokens:" in text
    assert "reward 3.00 GB (judge 3.00)" in text and "activations on top" in text
    assert len(CLOSED) == 1 and not list(tmp_path.iterdir())


def test_a_dry_run_shows_what_right_answers_are_read_as(tmp_path, capsys):
    file = tmp_path / "my.jsonl"
    file.write_text("".join(f'{{"prompt": "p{n}", "answer": "{answer}"}}\n' for n, answer in enumerate(ANSWERS)))
    keys = (f"task.path={file}", "task.held_out=1", "task.chat_template=false", "max_completion_length=8")
    config = composed("task=jsonl", "reward=math", *keys)
    run(Job(config=config, folder=tmp_path, ownership=None, stopping=Stopping()))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("right answer")]
    assert len(said) == 3 and set(said) <= {"right answer '3 1/2' is read as 7/2", "right answer '50%' is read as 50 %",
        "right answer '$18' is read as 18", "right answer '1,234' is read as 1234"}  # fmt: skip


def test_a_dry_run_of_a_warm_start_trains_nothing(tmp_path, capsys, monkeypatch):
    """It took the minutes of the warm start."""
    monkeypatch.setenv("DQO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dqo.run.warm_start.DEMONSTRATIONS", 30)
    config = composed("task=concepts", "warm_start=true")
    run(Job(config=config, folder=tmp_path, ownership=None, stopping=Stopping()))
    assert "warm start: 800 steps on 30 demonstrations, before the first step" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()


def test_a_dry_run_says_what_reference_samples_cost_and_samples_none(tmp_path, capsys):
    config = composed("credit.gate=reference", "credit.reference_samples=2", "steps=3")
    run(Job(config=config, folder=tmp_path, ownership=None, stopping=Stopping()))
    assert (
        "reference samples: 6 prompts × 2 = 12 completions of the initial policy before the first step; the run's 3 "
        "steps sample 24"
    ) in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
