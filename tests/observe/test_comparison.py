import io
import json
import math
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import pytest
from rich.console import Console

from dqo.evaluation import evaluate
from dqo.metrics.names import comparable
from dqo.observe.comparison import compared, difference
from dqo.observe.curves import comparable_lines, draw_curves
from dqo.observe.evaluations import Evaluations
from dqo.observe.frame import frame
from dqo.observe.summary import print_end, write_summary
from dqo.observe.view import View
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.steps import make_evaluation

ANSWERS = ("Paris", "paris", "Lima", "so so")
BEFORE, AFTER = make_evaluation(0.25), make_evaluation(0.75)
MORE = replace(AFTER, n=32)
FEWER = replace(AFTER, answers=AFTER.answers[:1])


def metrics_of(*texts: str) -> dict[str, float]:
    stages, prompts = scripted_stages({0: texts})
    return dict(evaluate(stages, prompts, n=len(texts), seed=0, families=OF_TRAINING).metrics)


def test_what_is_compared_over_different_n_has_the_same_expectation():
    """Of four answers as two of them are drawn: what may be compared is the mean over all pairs of answers."""
    pairs = [metrics_of(*pair) for pair in combinations(ANSWERS, 2)]
    for key, value in metrics_of(*ANSWERS).items():
        if key in pairs[0] and key not in ("n", "distinct_correct@2") and comparable(key, 4, 2):
            assert fmean(pair[key] for pair in pairs) == pytest.approx(value), key


def test_what_grows_with_n_is_not_compared():
    """The same four answers, twice each: no more diversity."""
    four, eight = metrics_of(*ANSWERS), metrics_of(*ANSWERS * 2)
    for key in ("logdet", "logdet/correct", "distinct_1", "distinct_1/correct"):
        assert four[key] != pytest.approx(eight[key], rel=0.1)
        assert not comparable(key, 4, 8) and comparable(key, 8, 8)
    for key in ("reward_best", "vendi", "cosine_distance/correct", "compared/correct"):
        assert not comparable(key, 4, 32)


@pytest.mark.parametrize(("n", "other", "same"), [(4, 32, False), (4, 8, False), (10, 32, True), (40, 11, True)])
def test_distinct_correct_is_of_ten_where_there_are_ten(n, other, same):
    assert comparable("distinct_correct", n, other) == same


def test_an_evaluation_says_how_many_completions_of_how_many_prompts_it_has():
    metrics = metrics_of(*ANSWERS)
    assert (metrics["n"], metrics["prompts"]) == (4.0, 1.0)


def test_equal_evaluations_are_compared_as_they_are():
    assert compared(BEFORE, AFTER).keys() == BEFORE.metrics.keys()
    assert compared(BEFORE, AFTER)["logdet"] == 0.25
    assert difference(BEFORE, n=AFTER.n, prompts=AFTER.prompts) is None


def test_a_resume_with_another_eval_n_compares_what_does_not_depend_on_it():
    first = compared(BEFORE, MORE)
    assert (first["reward"], first["pass@1"], first["pass@10"], first["cosine_distance"]) == (0.25,) * 4
    assert math.isnan(first["logdet"]) and math.isnan(first["distinct_correct"])
    reason = difference(BEFORE, n=32, prompts=MORE.prompts)
    assert reason is not None and "n = 4 completions of each prompt against n = 32; type eval.n=4" in reason


def test_a_resume_with_other_eval_prompts_compares_nothing():
    assert all(map(math.isnan, compared(BEFORE, FEWER).values()))
    reason = difference(BEFORE, n=4, prompts=FEWER.prompts)
    assert reason is not None and "2 prompts against 1; type eval.prompts=2" in reason


def test_as_many_but_other_prompts_are_not_compared():
    prompt = replace(AFTER.answers[1].prompt, content="Town 1?")
    others = replace(AFTER, answers=(AFTER.answers[0], replace(AFTER.answers[1], prompt=prompt)))
    assert all(map(math.isnan, compared(BEFORE, others).values()))
    assert "other held-out prompts" in str(difference(BEFORE, n=4, prompts=others.prompts))


def test_the_end_of_a_run_shows_no_change_of_what_cannot_be_compared(tmp_path):
    console = Console(file=(file := io.StringIO()), width=200, _environ={})
    print_end(console, run_dir=tmp_path, steps=60, before=BEFORE, after=MORE)
    rows = {line.split()[0]: line.split()[1:] for line in file.getvalue().splitlines() if line.strip()}
    assert rows["pass@1"] == ["0.250", "0.750", "+0.500"]
    assert rows["logdet"] == ["–", "0.750", "–"]
    assert file.getvalue().count("n = 4 completions of each prompt against n = 32") == 1


@pytest.mark.parametrize(("after", "sizes"), [(AFTER, (4, 2)), (MORE, (32, 2)), (FEWER, (4, 1))])
def test_the_summary_has_no_number_before_that_cannot_be_compared(after, sizes, tmp_path):
    write_summary(tmp_path / "summary.json", settings={}, before=BEFORE, after=after)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["before"]["n"], summary["before"]["prompts"]) == (4, 2)
    assert (summary["after"]["n"], summary["after"]["prompts"]) == sizes
    assert (summary["before"]["logdet"] is None) == (after is not AFTER) == (summary["not_compared"] is not None)
    assert (summary["before"]["reward"] is None) == (after is FEWER)
    assert summary["after"]["logdet"] == 0.75


def test_the_live_view_has_no_number_before_that_cannot_be_compared():
    console = Console(file=(file := io.StringIO()), width=100, _environ={})
    view = View(steps=4, log_every=1, live=True, title="cities", place="runs/x", console=console)
    view.evaluated(0, BEFORE)
    view.evaluated(2, MORE)
    console.print(frame(view._scene, width=100, now=view._scene.began))
    rows = {words[-3]: words[-2:] for line in file.getvalue().splitlines() if len(words := line.split()) > 2}
    assert rows["pass@1"] == ["0.250", "0.750"]
    assert rows["logdet"] == ["–", "0.750"]


def line(step: int, n: float | None, prompts: float | None = 16.0) -> dict:
    sizes = {} if n is None else {"eval/n": n, "eval/prompts": prompts}
    return {"step": step, "eval/pass@1": 0.1, "eval/distinct_correct": 1.0, "eval/logdet": 2.0, **sizes}


def test_curves_join_only_what_can_be_compared(tmp_path):
    lines = [line(0, 4.0), {"step": 1, "reward": 0.5}, line(2, 4.0), line(2, 32.0), line(4, 32.0), line(6, 32.0, 8.0)]

    def steps(key: str) -> list[list[int]]:
        return [[each["step"] for each in part] for part in comparable_lines(lines, key)]

    assert steps("pass@1") == [[0, 2, 2, 4], [6]]
    assert steps("distinct_correct") == steps("logdet") == [[0, 2], [2, 4], [6]]
    draw_curves(tmp_path / "curves.png", lines=lines, title="resumed")


def test_lines_of_an_older_version_without_n_are_joined_with_one_another_alone():
    lines = [line(0, None), line(2, None), line(4, 32.0)]
    assert [len(part) for part in comparable_lines(lines, "pass@1")] == [2, 1]


def test_an_evaluation_of_other_prompts_is_read_with_its_own(tmp_path):
    evaluations = Evaluations(folder=tmp_path)
    evaluations.evaluated(0, BEFORE)
    read = evaluations.measured(0, BEFORE.prompts[:1])
    assert read is not None
    assert [prompt.content for prompt in read.prompts] == ["City 0?", "City 1?"]
    assert compared(read, AFTER)["logdet"] == 0.25
    assert evaluations.measured(5, BEFORE.prompts) is None
