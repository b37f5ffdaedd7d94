"""What a dry run prints, and that it closes what it has opened."""

from dqo.reward.check import Check
from dqo.run.dry_run import run
from dqo.run.job import Job
from dqo.run.stopping import Stopping
from tests.helpers.composing import composed, with_class

CLOSED = []


class Connected(Check):
    """A reward of one's own with a connection to close."""

    def __init__(self, task):
        super().__init__(task, mask_truncated_completions=False)

    def memory(self):
        return {"judge": 3_000_000_000}

    def close(self) -> None:
        CLOSED.append(self)


def test_a_dry_run_shows_batch_memory_and_prompt_and_closes_its_stages(tmp_path, capsys):
    job = Job(config=with_class(composed(), "reward", Connected), folder=tmp_path, ownership=None, stopping=Stopping())
    run(job)
    text = capsys.readouterr().out
    assert "2 prompts × k=4 = 8 completions" in text and "the first prompt, 4 tokens:" in text
    assert "reward 3.00 GB (judge 3.00)" in text and "activations on top" in text
    assert len(CLOSED) == 1 and not list(tmp_path.iterdir())
