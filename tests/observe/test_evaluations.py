import math

from dqo.observe.evaluations import Evaluations
from tests.observe.records import HOSTILE, make_evaluation


def test_round_trip(tmp_path):
    evaluation = make_evaluation(0.5, text=HOSTILE)
    prompts = [answers.prompt for answers in evaluation.answers]
    kept = Evaluations(folder=tmp_path)
    kept.evaluated(20, evaluation)
    read = kept.read(20, prompts)
    assert read is not None
    assert (read.n, read.seed) == (4, 0)
    assert [answers.texts for answers in read.answers] == [(HOSTILE,) * 4] * 2
    assert [answers.correct for answers in read.answers] == [(True, True, False, False)] * 2
    assert math.isnan(read.answers[0].rewards[3])
    assert read.metrics["pass@1"] == 0.5
    assert math.isnan(read.metrics["cosine_distance/correct"])


def test_none_where_there_is_none_or_the_prompts_are_others(tmp_path):
    evaluation = make_evaluation()
    prompts = [answers.prompt for answers in evaluation.answers]
    kept = Evaluations(folder=tmp_path)
    assert kept.read(0, prompts) is None
    kept.evaluated(0, evaluation)
    assert kept.read(0, prompts[:1]) is None


def test_a_resumed_run_keeps_what_its_metrics_know_of(tmp_path):
    kept = Evaluations(folder=tmp_path)
    for number in (0, 10, 20):
        kept.evaluated(number, make_evaluation())
    (tmp_path / ".new-step_00030.json").touch()
    kept.keep({0, 10})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000.json", "step_00010.json"]
