import json
import struct

import altair as alt
import pytest

from dqo.report.comparison import compare
from dqo.report.figures import VEGA, make_figures, write_files
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_eval, write_run, write_sweep


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = write_eval(tmp_path_factory.mktemp("e") / "e", temperatures=(0.5, 1.0), controls=True)
    source = read_folders([str(folder)])
    return make_figures(source, compare(source))


def rows_of(panel):
    """The rows of a Vega-Lite panel, all data sets together."""
    return [row for rows in panel["datasets"].values() for row in rows]


def test_an_evaluation_has_every_figure_but_the_curves(measured):
    assert [figure.id for figure in measured] == [
        "tradeoff", "passes", "metrics", "circles", "heat_maps", "decodings", "controls",
    ]  # fmt: skip
    assert all(figure.reading.endswith(".") for figure in measured)


def test_specifications_are_valid(measured):
    for figure in measured:
        for panel in figure.panels:
            if VEGA not in panel["$schema"]:
                alt.Chart.from_dict(panel)  # raises where the schema is broken


def test_a_sweep_has_curves(tmp_path):
    folder = write_sweep(tmp_path / "s", [{"alpha": a} for a in (0, 1)], planned="alpha=0,1")
    source = read_folders([str(folder)])
    figures = {figure.id: figure for figure in make_figures(source, compare(source))}
    assert "curves" in figures and "controls" not in figures and "decodings" not in figures
    titles = [panel["title"]["text"] if isinstance(panel["title"], dict) else panel["title"]
              for panel in figures["curves"].panels]  # fmt: skip
    assert "pass@1, held out" in titles and "credit" in titles and "KL to the reference" not in titles


def test_one_run_has_figures(tmp_path):
    source = read_folders([str(write_run(tmp_path / "a"))])
    figures = {figure.id: figure for figure in make_figures(source, compare(source))}
    names = {row.get("variant") for row in rows_of(figures["tradeoff"].panels[0])} - {None}
    assert names == {"before training", "a"}


def test_controls_that_beat_every_policy_are_named(measured):
    controls = next(figure for figure in measured if figure.id == "controls")
    assert "random text beats every policy in" in controls.reading and "copies" not in controls.reading
    fooled = {row["control"] for panel in controls.panels for row in rows_of(panel) if row.get("fooled")}
    assert "random text" in fooled and "copies" not in fooled


@pytest.mark.slow
def test_every_figure_is_written_as_png_and_svg(measured, tmp_path):
    files = write_files(measured, tmp_path / "figures")
    assert {file.name for file in files} == {
        f"{figure.id}.{suffix}" for figure in measured for suffix in ("png", "svg")
    }
    for file in files:
        if file.suffix == ".png":
            width, height = struct.unpack(">II", file.read_bytes()[16:24])
            assert width > 800 and height > 300
        else:
            assert file.read_text().startswith("<svg") and "http-equiv" not in file.read_text()


def test_specifications_are_json(measured):
    for figure in measured:
        assert json.dumps(figure.panels, allow_nan=False)
