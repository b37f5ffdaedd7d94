"""``dqo-report``: from folders to one HTML page, and figures as files. In the launcher's process, without torch."""

import importlib.util
import os
import shlex
import sys
from pathlib import Path

from dqo.config.schema import ReportConfig
from dqo.errors import ConfigError
from dqo.files.atomic import replacing

MADE_BY = '<meta name="generator" content="dqo-report">'  # in every report
ELSEWHERE = "type out=ANOTHER_FOLDER/report.html"
PACKAGES = ("altair", "vl_convert", "jinja2", "passk_inference")


def run(config: ReportConfig) -> None:
    """Write the page to ``config.out`` and the figures into ``config.figures``. Raises ConfigError, with nothing
    written, for wrong input."""
    _require_packages()
    from dqo.report.comparison import compare
    from dqo.report.figures import make_figures, write_files
    from dqo.report.page.document import page
    from dqo.report.reading import read_folders

    out = Path(config.out)
    _refuse_places(config, out)
    source = read_folders(config.runs)
    comparison = compare(source)
    figures = make_figures(source, comparison)
    command = shlex.join(["dqo-report", *_typed(config)])
    text = page(source, comparison, figures, title=config.title, command=command, most=config.completions)
    try:
        with replacing(out) as path:
            path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"out={out}: cannot be written ({error.strerror}); {ELSEWHERE}") from error
    written = write_files(figures, Path(config.figures)) if config.figures else []
    more = f", and {len(written)} figures in {config.figures}" if written else ""
    print(f"dqo-report: {out} ({out.stat().st_size / 1e6:.1f} MB){more}; open it in a browser", file=sys.stderr)


def _require_packages() -> None:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"dqo-report needs the package {name}: pip install 'dqo-rl[report]'")


def _refuse_places(config: ReportConfig, out: Path) -> None:
    """Raises ConfigError where the page or the figures cannot be written, or would be written over a run's files."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"out={out}: the report is an HTML page; type out={out.with_suffix('.html')}")
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder; type out={out / 'report.html'}")
    if out.exists() and MADE_BY not in out.read_text("utf-8", errors="replace")[:3000]:
        raise ConfigError(f"out={out} is there and is no report; type another out=, or remove the file")
    _require_writable(out.parent, f"out={out}", ELSEWHERE)
    for folder in config.runs:
        if Path(folder).is_file() and (Path(folder).resolve() == out.resolve() or folder.endswith((".html", ".htm"))):
            raise ConfigError(f"{folder} is a report and not a run; type the folders of the runs that it shows")
    if config.figures is not None:
        figures = Path(config.figures)
        if figures.exists() and not figures.is_dir():
            raise ConfigError(f"figures={figures} is a file; type figures=FOLDER")
        for folder in map(Path, config.runs):
            if figures.resolve() == folder.resolve() or (figures / "config.yaml").exists():
                raise ConfigError(f"figures={figures} is the folder of a run; type figures=ANOTHER_FOLDER")
        there = next(path for path in (figures, *figures.absolute().parents) if path.exists())
        _require_writable(there, f"figures={figures}", "type figures=ANOTHER_FOLDER")


def _require_writable(folder: Path, given: str, advice: str) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{given}: there is no folder {folder}; make it, or {advice}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{given}: the folder {folder} cannot be written; {advice}")


def _typed(config: ReportConfig) -> list[str]:
    options = {"out": config.out, "figures": config.figures, "title": config.title}
    return [*config.runs, *(f"{key}={value}" for key, value in options.items() if value is not None)]
