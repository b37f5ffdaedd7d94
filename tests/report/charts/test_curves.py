from dqo.report.charts.curves import comparable_parts, smoothed


def line(step, n, value, prompts=16, key="vendi"):
    return {"step": step, "eval/n": n, "eval/prompts": prompts, f"eval/{key}": value}


def test_evaluations_of_another_n_are_not_joined():
    lines = [line(0, 4, 1.0), line(5, 4, 1.5), line(10, 8, 2.5), {"step": 11, "reward": 1.0}, line(15, 8, None)]
    assert [[each["step"] for each in part] for part in comparable_parts(lines, "vendi")] == [[0, 5], [10]]


def test_a_metric_that_does_not_depend_on_n_is_joined():
    lines = [line(0, 4, 1.0, key="cosine_distance"), line(5, 8, 1.0, key="cosine_distance")]
    assert len(comparable_parts(lines, "cosine_distance")) == 1
    lines.append(line(9, 8, 1.0, prompts=4, key="cosine_distance"))
    assert len(comparable_parts(lines, "cosine_distance")) == 2  # other prompts


def test_long_runs_are_averaged_over_steps():
    lines = [{"step": step, "reward": float(step)} for step in range(1, 101)] + [{"step": 101, "reward": None}]
    points = smoothed(lines, "reward", 20)
    assert len(points) == 20 and points[0] == (3.0, 3.0) and points[-1] == (98.0, 98.0)
