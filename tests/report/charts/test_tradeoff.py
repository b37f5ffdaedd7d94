from dqo.report.charts.theme import marks
from dqo.report.charts.tradeoff import tradeoff
from dqo.report.comparison import compare
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_eval, write_sweep


def rows_of(folder):
    comparison = compare(read_folders([str(folder)]))
    chart = tradeoff(comparison, marks(comparison.traded, comparison.keys))
    assert chart is not None
    spec = chart.to_dict(validate=False)
    return comparison, [row for rows in spec["datasets"].values() for row in rows if row]


def test_each_variant_is_a_point_with_its_interval_for_each_metric(tmp_path):
    comparison, rows = rows_of(write_eval(tmp_path / "e"))
    points = [row for row in rows if row["metric"] == "cosine_distance"]
    assert [row["variant"] for row in points] == ["alpha=0", "alpha=1", "alpha=2"]
    assert all(row["x_low"] < row["x"] < row["x_high"] for row in points)
    assert {row["metric"] for row in rows} == {*comparison.diversities}
    front = [each.name for each in comparison.front("cosine_distance")]
    assert [row["variant"] for row in points if row["front"]] == front


def test_seeds_are_small_points_and_before_training_is_left_out(tmp_path):
    jobs = [{"alpha": alpha, "seed": seed} for alpha in (0, 1) for seed in (0, 1)]
    _, rows = rows_of(write_sweep(tmp_path / "s", jobs, planned="alpha=0,1 seed=0,1"))
    here = [row for row in rows if row["metric"] == "cosine_distance"]
    assert len([row for row in here if "front" in row]) == 2 and len([row for row in here if "front" not in row]) == 4


def test_labels_do_not_overlap(tmp_path):
    jobs = [{"alpha": alpha, "k": k} for alpha in (0, 1) for k in (4, 8, 16)]
    _, rows = rows_of(write_sweep(tmp_path / "s", jobs, planned="alpha=0,1 k=4,8,16"))
    here = [row for row in rows if row["metric"] == "cosine_distance"]
    width, height = (
        max(row[f"{axis}_high"] for row in here) - min(row[f"{axis}_low"] for row in here) for axis in "xy"
    )
    labelled = [(row["x"] / width * 720, row["y"] / height * 370) for row in here if row["label"]]
    assert labelled
    for i, (x, y) in enumerate(labelled):
        assert all(abs(x - u) >= 149 or abs(y - v) >= 15 for u, v in labelled[:i])
