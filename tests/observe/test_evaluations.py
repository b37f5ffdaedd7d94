import json
import math

from dqo.observe.evaluations import Evaluations
from tests.helpers.steps import HOSTILE, make_evaluation


def test_an_evaluation_is_read_back(tmp_path):
    evaluation = make_evaluation(0.5, text=HOSTILE)
    prompts = [answers.prompt for answers in evaluation.answers]
    evaluations = Evaluations(folder=tmp_path)
    evaluations.evaluated(20, evaluation)
    read = evaluations.read(20, prompts)
    assert read is not None
    assert (read.n, read.seed) == (4, 0)
    assert [answers.texts for answers in read.answers] == [(HOSTILE,) * 4] * 2
    assert [answers.correct for answers in read.answers] == [(True, True, False, False)] * 2
    assert math.isnan(read.answers[0].rewards[3])
    assert [answers.lengths for answers in read.answers] == [(2,) * 4] * 2
    assert [answers.finished for answers in read.answers] == [(True,) * 4] * 2
    assert read.metrics["pass@1"] == 0.5
    assert read.per_prompt["pass@1"] == (0.5, 0.5)
    assert read.cosines == evaluation.cosines
    assert math.isnan(read.metrics["cosine_distance/correct"])


def test_nothing_is_read_without_a_file_or_for_other_prompts(tmp_path):
    evaluation = make_evaluation()
    prompts = [answers.prompt for answers in evaluation.answers]
    evaluations = Evaluations(folder=tmp_path)
    assert evaluations.read(0, prompts) is None
    evaluations.evaluated(0, evaluation)
    assert evaluations.read(0, prompts[:1]) is None


def test_only_the_given_steps_are_kept(tmp_path):
    evaluations = Evaluations(folder=tmp_path)
    for number in (0, 10, 20):
        evaluations.evaluated(number, make_evaluation())
    (tmp_path / ".new-step_00030.json").touch()
    evaluations.keep({0, 10})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000.json", "step_00010.json"]


def test_files_of_an_older_dqo_are_read(tmp_path):
    evaluation = make_evaluation()
    evaluations = Evaluations(folder=tmp_path)
    evaluations.evaluated(0, evaluation)
    path = tmp_path / "step_00000.json"
    record = json.loads(path.read_text())
    del record["per_prompt"]
    for answers in record["answers"]:
        for key in ("finished", "lengths", "cosines"):
            del answers[key]
    path.write_text(json.dumps(record))
    read = evaluations.read(0, evaluation.prompts)
    assert read is not None
    assert read.metrics.keys() == evaluation.metrics.keys()
    assert (read.per_prompt, read.cosines) == ({}, ())
    assert [(answers.finished, answers.lengths) for answers in read.answers] == [(None, None)] * 2
