from dqo.report.charts.theme import GRAY, concat, marks
from dqo.report.comparison import BEFORE, Variant


def variants(*settings):
    return [Variant(name=str(each), settings=each, members=()) for each in settings]


def test_one_setting_is_told_by_color_shape_and_dash():
    found = marks(variants({"alpha": 0}, {"alpha": 1}, {"alpha": 2}), ["alpha"])
    assert len({*found.colors}) == len({*found.shapes}) == len({*map(str, found.dashes)}) == 3


def test_the_first_setting_is_the_color_and_the_second_the_shape():
    found = marks(variants(*({"alpha": a, "k": k} for a in (0, 1) for k in (4, 8))), ["alpha", "k"])
    assert found.colors[0] == found.colors[1] != found.colors[2]
    assert found.shapes[0] == found.shapes[2] != found.shapes[1]


def test_before_training_is_gray_and_others_keep_their_marks():
    some = variants({"alpha": 0}, {"alpha": 1})
    before = Variant(name=BEFORE, settings={}, members=())
    found = marks([before, *some], ["alpha"])
    assert found.colors[0] == GRAY
    assert found.of(some).colors == found.colors[1:] and found.of(some).names == found.names[1:]


def test_panels_are_joined_with_their_data():
    panels = [{"$schema": "s", "mark": "bar", "datasets": {name: []}, "params": [{"name": "p"}]} for name in "ab"]
    assert concat(panels, columns=2) == {
        "$schema": "s", "params": [{"name": "p"}], "datasets": {"a": [], "b": []}, "columns": 2,
        "concat": [{"mark": "bar"}, {"mark": "bar"}],
    }  # fmt: skip
