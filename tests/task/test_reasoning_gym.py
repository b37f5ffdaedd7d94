"""Problems of reasoning-gym, with the real package in its process."""

import pytest

from dqo.errors import ConfigError
from tests.factories import word_tokenizer
from tests.task.builders import with_rendering

pytest.importorskip("reasoning_gym")
from dqo.task.reasoning_gym import ReasoningGym


def build(generator: str = "leg_counting", **keys) -> ReasoningGym:
    keys = {"settings": {}, "evaluate_answers": False, "timeout": 10.0, "held_out": 5, **keys}
    keys = with_rendering({"generator": generator, **keys}, max_completion_length=40)
    return ReasoningGym(word_tokenizer(["word"]), 1024, **keys)


@pytest.fixture(scope="module")
def legs():
    task = build(settings={"min_animals": 2, "max_animals": 3})
    yield task
    task.close()


def test_problems_are_pure_in_seed_and_position(legs):
    prompts, cursor = legs.draw(0, 6)
    assert cursor == 6
    assert legs.draw(3, 2)[0] == prompts[3:5]
    assert len({prompt.content for prompt in prompts}) == 6
    assert str(prompts[0].content).endswith("\n\nGive your final answer between <answer> and </answer>.")
    other = build(settings={"min_animals": 2, "max_animals": 3}, seed=1)
    assert not {prompt.content for prompt in other.draw(0, 6)[0]} & {prompt.content for prompt in prompts}
    assert other.held_out() == legs.held_out()
    other.close()


def test_the_generator_judges(legs):
    prompt = legs.held_out()[0]
    answer = prompt.columns["answer"]
    verdict = legs.check(prompt, f"<answer>1</answer> No: <answer> {answer} </answer>", True)
    assert (verdict.reward, verdict.correct) == (1.0, True)
    partly = legs.check(prompt, f"<answer>{answer} legs</answer>", True)
    assert 0 < partly.reward < 1 and not partly.correct
    for text in (answer, "<answer></answer>", "<answer>-1</answer>", "", f"<answer>{'9' * 20_000}</answer>"):
        assert legs.check(prompt, text, True).reward == 0.0
    assert legs.check(prompt, f"<answer>{answer}</answer>", False).reward == 0.0


def test_keys_are_answers(legs):
    prompt = legs.held_out()[0]
    assert legs.key(prompt, "So it is <answer>Ten  legs.</answer>") == legs.key(prompt, "<answer>ten legs</answer>")
    assert legs.key(prompt, "Ten") != legs.key(prompt, "Twelve")


def test_demonstrations_are_right(legs):
    pairs = legs.demonstrations(4, 0)
    assert pairs == legs.demonstrations(4, 0)
    assert all(legs.check(prompt, text, True).correct for prompt, text in pairs)


def test_the_generator_is_part_of_the_fingerprint(legs):
    assert legs.fingerprints()["training rows"] == (
        'reasoning-gym 0.1.25, leg_counting {"max_animals": 3, "min_animals": 2}'
    )


@pytest.mark.slow
def test_an_answer_that_ends_the_process_is_counted():
    task = build("n_queens", evaluate_answers=True, held_out=1)
    (prompt,) = task.held_out()
    assert task.check(prompt, "<answer>[__import__('os')._exit(3)]</answer>", True).reward == 0.0
    assert task.counters() == {"errors": 1, "timeouts": 0}
    assert task.check(prompt, f"<answer>{prompt.columns['answer']}</answer>", True).correct
    task.close()


@pytest.mark.slow
def test_a_generator_with_few_problems():
    settings = {"min_trials": 2, "max_trials": 2}
    task = build("coin_flip", settings=settings, held_out=1)
    kept = {prompt.content for prompt in task.held_out()}
    assert not kept & {prompt.content for prompt in task.draw(0, 30)[0]}
    task.close()
    with pytest.raises(ConfigError, match=r"task.held_out=50: coin_flip made only \d+ different .* task.held_out="):
        build("coin_flip", settings=settings, held_out=50)


@pytest.mark.slow
def test_a_generator_without_right_answers():
    task = build("graph_color", held_out=1)
    assert task.held_out()[0].columns["answer"] is None
    with pytest.raises(ConfigError, match=r"task.generator=graph_color gives no right answers to learn from"):
        task.demonstrations(1, 0)
    task.close()


@pytest.mark.slow
def test_a_wrong_setting():
    with pytest.raises(
        ConfigError, match=r"task.settings.legs: leg_counting has no such setting; type task.settings.min_animals"
    ):
        build(settings={"legs": 3})


@pytest.mark.parametrize(
    ("generator", "settings"), [("n_queens", {}), ("composite", {"datasets": [{"name": "n_queens"}]})]
)
def test_answers_are_not_run_as_code_unless_typed(generator, settings):
    with pytest.raises(ConfigError, match=r"the score of n_queens runs .* task.evaluate_answers=true"):
        build(generator, settings=settings)
