from dqo.report.charts.circles import circles, prompts_of, side_by_side
from dqo.report.comparison import Variant, compare
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_run


def variant_with(tmp_path, *texts) -> Variant:
    folder = write_run(tmp_path / "a", texts=texts)
    return compare(read_folders([str(folder)])).variants[0]


def test_equal_answers_are_one_circle(tmp_path):
    variant = variant_with(tmp_path, "Ghent", "Ghent", "Ghent", "Delft")
    prompts = prompts_of([variant])
    assert len(prompts) == 4
    (panel,) = circles([variant], prompts)
    rows = [row for row in panel["data"][0]["values"] if row["prompt"] == 0]
    assert sum(row["count"] for row in rows) == 10
    assert {row["text"]: row["count"] for row in rows}["Ghent"] == 3
    assert {row["state"] for row in rows if row["text"] in ("Ghent", "Delft")} == {"wrong"}


def test_hostile_answers_are_escaped_and_short(tmp_path):
    variant = variant_with(tmp_path, "\x1b[2Jx", "‮evil", "y" * 1_000_000, "")
    (panel,) = circles([variant], prompts_of([variant]))
    texts = [row["text"] for row in panel["data"][0]["values"]]
    assert all(text.isprintable() and len(text) <= 60 for text in texts) and "(empty)" in texts


def test_panels_stand_side_by_side_in_a_file(tmp_path):
    variant = variant_with(tmp_path)
    panels = circles([variant, variant], prompts_of([variant]))
    whole = side_by_side(panels)
    assert whole["width"] == 2 * panels[0]["width"] + 20 and len(whole["marks"]) == 2
