"""Reference samples: each prompt that the run will draw once, before the first step, kept for a resumed run."""

from dataclasses import replace

import pytest
import torch

from dqo.errors import ConfigError, StageError
from dqo.references import References
from dqo.run.references import FILE, announcement, distinct, drawn, read_references, sample_references
from tests.helpers.composing import composed
from tests.helpers.toy_stages import CountingTask, EvenReward, toy_stages

CONFIG = composed("steps=3", "prompts_per_step=2", "k=4", "redraws=1")  # 12 prompts at most


class FourPrompts(CountingTask):
    """A stream that repeats its prompts, as a small data set does."""

    def draw(self, cursor: int, count: int):
        drawn = range(cursor, cursor + count)
        return [replace(self._prompt(n % 4), position=n) for n in drawn], cursor + count


def asked(count: int = 3, *, embedded: bool = False) -> References:
    references = References()
    references.need(count, embedded=embedded)
    return references


def sample(folder, references, config=CONFIG, **others):
    said = []
    stages = replace(toy_stages(), **others)
    sample_references(config, folder, stages, references, say=said.append)
    return stages, said


def test_the_prompts_are_those_of_all_steps_and_redraws_without_repetition():
    assert [prompt.position for prompt in drawn(CONFIG, CountingTask())] == list(range(12))
    assert [prompt.position for prompt in distinct(drawn(CONFIG, FourPrompts()))] == [0, 1, 2, 3]


def test_without_a_stage_that_asks_nothing_is_sampled(tmp_path):
    assert sample(tmp_path, References())[1] == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("embedded", [True, False])
def test_each_prompt_is_sampled_judged_and_read_back(tmp_path, embedded, caplog):
    caplog.set_level("INFO")
    references = asked(embedded=embedded)
    stages, said = sample(tmp_path, references, task=FourPrompts())
    assert said == ["sampling reference completions"] and [path.name for path in tmp_path.iterdir()] == [FILE]
    assert (
        "reference samples: 4 prompts × 3 = 12 completions of the initial policy before the first step" in caplog.text
    )
    again = asked(embedded=embedded)
    read_references(CONFIG, tmp_path, FourPrompts(), again, step=1)
    for prompt in drawn(CONFIG, FourPrompts()):
        one, other = references.of(prompt), again.of(prompt)
        assert one.rollouts.k == 3 and one.rollouts.texts == other.rollouts.texts
        assert torch.equal(one.rewards.total_PK, EvenReward().score(one.rollouts).total_PK)
        assert torch.equal(one.rewards.total_PK, other.rewards.total_PK)
        assert (one.embeddings_KD is None) == (other.embeddings_KD is None) == (not embedded)
        if one.embeddings_KD is not None and other.embeddings_KD is not None:
            assert torch.equal(one.embeddings_KD, stages.embed.encode(one.rollouts)[0])
            assert torch.equal(one.embeddings_KD, other.embeddings_KD)


def test_the_noise_is_neither_that_of_training_nor_that_of_an_evaluation(tmp_path):
    references = asked(4)
    stages, _ = sample(tmp_path, references)
    prompt = stages.task.draw(0, 1)[0][0]
    for seed in (CONFIG.seed, CONFIG.eval.seed):
        (trained,) = stages.rollout.generate([prompt], k=4, seed=seed)
        assert trained.texts != references.of(prompt).rollouts.texts


def test_a_run_that_goes_on_samples_nothing_again(tmp_path):
    sample(tmp_path, asked())
    references, before = asked(), (tmp_path / FILE).stat()
    read_references(CONFIG, tmp_path, CountingTask(), references, step=1)
    assert sample(tmp_path, references)[1] == [] and (tmp_path / FILE).stat() == before


def test_a_run_without_repetition_cannot_grow_and_one_with_repetition_can(tmp_path):
    longer = composed("steps=5", "prompts_per_step=2", "k=4", "redraws=1")
    sample(tmp_path, asked())
    with pytest.raises(ConfigError) as caught:
        read_references(longer, tmp_path, CountingTask(), asked(), step=3)
    assert str(caught.value) == (
        f"steps=5: 8 prompts after step 3 have no samples in {tmp_path / FILE}, and only the initial policy could make "
        "them; type steps=3, or start a new run with run_dir=ANOTHER_FOLDER"
    )
    (tmp_path / FILE).unlink()
    sample(tmp_path, asked(), task=FourPrompts())
    references = asked()
    read_references(longer, tmp_path, FourPrompts(), references, step=3)
    assert not references.is_empty


@pytest.mark.parametrize(
    ("kept", "needed", "problem"),
    [
        (None, asked(3), "is missing"),
        (asked(3), asked(4), "has not the samples that the configuration asks for"),
        (asked(3), asked(3, embedded=True), "has not the samples that the configuration asks for"),
    ],
    ids=["no file", "too few", "no embeddings"],
)
def test_a_run_that_goes_on_without_its_samples_is_refused_and_one_that_starts_anew_samples_them(
    tmp_path, kept, needed, problem
):
    if kept:
        sample(tmp_path, kept)
    with pytest.raises(
        ConfigError, match=f"{FILE} {problem}, and only the initial policy could make them; start a new"
    ):
        read_references(CONFIG, tmp_path, CountingTask(), needed, step=1)
    read_references(CONFIG, tmp_path, CountingTask(), needed, step=0)
    assert needed.is_empty
    assert sample(tmp_path, needed)[1] and not needed.is_empty


def test_a_stage_that_fails_says_what_it_was_asked_for(tmp_path):
    class Broken(EvenReward):
        def score(self, rollouts):
            raise StageError("reward", "the judge is gone", positions=[7])

    with pytest.raises(StageError, match=r"\[reward, prompts 7\] sampling reference completions: the judge is gone"):
        sample(tmp_path, asked(), reward=Broken())
    assert not list(tmp_path.iterdir())


def test_prompts_without_a_valid_completion_are_counted(tmp_path, caplog):
    class Third(EvenReward):
        """Cannot judge the prompt at position 2."""

        def score(self, rollouts):
            rewards = super().score(rollouts)
            known_P = torch.tensor([prompt.position != 2 for prompt in rollouts.prompts])
            return replace(rewards, valid_PK=rewards.valid_PK & known_P[:, None])

    sample(tmp_path, asked(), reward=Third())
    assert "reference samples: 1 of 12 prompts have no valid completion" in caplog.text


def test_the_announcement_compares_with_what_the_run_samples():
    assert announcement(CONFIG, 12, 5) == (
        "reference samples: 12 prompts × 5 = 60 completions of the initial policy before the first step; the run's 3 "
        "steps sample 24"
    )
