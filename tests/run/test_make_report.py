import subprocess
import sys

import pytest

from dqo.config.schema import ReportConfig
from dqo.errors import ConfigError
from dqo.run import make_report
from tests.helpers.report_folders import write_eval, write_run


def config(*runs, out, figures=None, completions=10):
    return ReportConfig(
        runs=[*map(str, runs)], out=str(out), figures=figures and str(figures), title=None, completions=completions
    )


def test_the_report_is_one_file_made_without_torch(tmp_path):
    """In a process of its own: this one has imported torch."""
    run = write_run(tmp_path / "a", alpha=1)
    code = f"""
import sys
from dqo.config.schema import ReportConfig
from dqo.run.make_report import run
run(ReportConfig(runs=[{str(run)!r}], out={str(tmp_path / "r.html")!r}, figures=None, title=None, completions=10))
assert not {{"torch", "transformers"}} & {{*sys.modules}}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "open it in a browser" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a", "r.html"}


def test_a_report_is_written_over_but_nothing_else(tmp_path):
    run = write_run(tmp_path / "a")
    make_report.run(config(run, out=tmp_path / "r.html"))
    make_report.run(config(run, out=tmp_path / "r.html"))
    (tmp_path / "mine.html").write_text("<html>my page</html>")
    with pytest.raises(ConfigError, match=r"mine.html is there and is no report"):
        make_report.run(config(run, out=tmp_path / "mine.html"))
    assert (tmp_path / "mine.html").read_text() == "<html>my page</html>"


@pytest.mark.parametrize(
    ("out", "figures", "message"),
    [
        ("a/config.yaml", None, r"out=\S+ the report is an HTML page; type out=\S+\.html"),
        ("a", None, r"type out="),
        ("missing/r.html", None, r"there is no folder \S+missing; make it"),
        ("r.html", "a", r"figures=\S+ is the folder of a run"),
        ("r.html", "a/summary.json", r"figures=\S+ is a file"),
    ],
)
def test_a_wrong_place_is_refused_in_one_line_and_nothing_is_written(tmp_path, out, figures, message):
    run = write_run(tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ConfigError, match=message) as error:
        make_report.run(config(run, out=tmp_path / out, figures=figures and tmp_path / figures))
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_report_of_a_report_is_refused(tmp_path):
    (tmp_path / "r.html").write_text("<html>")
    for out in ("r.html", "other.html"):
        with pytest.raises(ConfigError, match=r"no report|is a report and not a run"):
            make_report.run(config(tmp_path / "r.html", out=tmp_path / out))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"out=/proc/r.html: .*; type out=ANOTHER_FOLDER/report.html"):
        make_report.run(config(write_run(tmp_path / "a"), out="/proc/r.html"))


def test_a_missing_package_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(make_report, "PACKAGES", ("altair", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs the package no_such_package: pip install 'dqo-rl\[report\]'"):
        make_report.run(config(write_run(tmp_path / "a"), out=tmp_path / "r.html"))
    assert not (tmp_path / "r.html").exists()


def test_wrong_runs_leave_no_file(tmp_path):
    runs = [write_run(tmp_path / "a"), write_eval(tmp_path / "e", task="gsm8k")]
    with pytest.raises(ConfigError, match="2 tasks"):
        make_report.run(config(*runs, out=tmp_path / "r.html", figures=tmp_path / "f"))
    assert {path.name for path in tmp_path.iterdir()} == {"a", "e"}
