"""The command that the model card and the last lines of a run show."""

from omegaconf import OmegaConf

from dqo.run.job import Job
from dqo.run.report import _typed, _update_words, batch_line
from dqo.run.stopping import Stopping
from tests.factories import word_tokenizer
from tests.helpers.composing import composed


def test_paths_below_the_folder_of_the_start_are_shown_as_they_were_typed(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    here, elsewhere = tmp_path / "data", f"/mnt{tmp_path}/data"
    saved = [
        f"task.path={here}/a.jsonl", f"task.eval_path={elsewhere}/b.jsonl", "alpha=2",
        f"reward.function=[{here}/r.py:f,'{here}/my r.py:g']", "hydra.searchpath=[x]",
        "task.date=2026-07-31",
    ]  # fmt: skip
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "overrides.yaml")
    (tmp_path / "config.yaml").touch()
    tokenizer = word_tokenizer()
    job = Job(config=composed(base=("run_dir=run",)), folder=tmp_path, ownership=None, stopping=Stopping())
    assert _typed(job, tokenizer) == [
        "task.path=a.jsonl", f"task.eval_path={elsewhere}/b.jsonl", "alpha=2", "reward.function=[r.py:f,'my r.py:g']",
    ]  # fmt: skip
    tokenizer.chat_template = "{{ strftime_now('%d') }}"
    assert _typed(job, tokenizer)[-1] == "task.date=2026-07-31"


def test_the_update_is_advantage_and_loss_with_its_terms():
    config = composed("advantage=gdpo", "loss=replay")
    assert _update_words(config) == "advantage Gdpo, loss Clip, term replay"
    assert _update_words(composed()) == "advantage Joint, loss Clip"
    with_critic = _update_words(composed("algorithm=ppo"))
    assert with_critic == "advantage Gae with 0.05 times the KL in the reward, loss Clip"


def test_the_line_of_a_step_counts_its_updates():
    assert " tokens, one update;" in batch_line(composed("device=cpu"))
    assert " tokens, 8 updates;" in batch_line(composed("device=cpu", "algorithm=ppo", "num_mini_batches=2"))
