"""docs/metrics.md lists exactly the metrics that are emitted."""

import re
from pathlib import Path

from dqo.evaluation import evaluate
from dqo.metrics.names import FAMILIES, METRICS
from dqo.metrics.training import describe
from dqo.observe.completions import table
from dqo.observe.frame import TRAINING
from tests.helpers.families import OF_TRAINING
from tests.helpers.scripted_stages import scripted_stages
from tests.helpers.steps import make_step

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented(section: str) -> list[str]:
    """Metric names in the first column of a section's table, in order."""
    body = DOCS.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", body, flags=re.MULTILINE)


def matches(pattern: str, key: str) -> bool:
    return re.fullmatch(re.sub(r"<\w+>", r"\\w+", pattern), key) is not None


def assert_same(patterns: list[str], keys: set[str]) -> None:
    assert len(patterns) == len(set(patterns)), "defined twice"
    assert [key for key in keys if not any(matches(pattern, key) for pattern in patterns)] == [], "not documented"
    assert [pattern for pattern in patterns if not any(matches(pattern, key) for key in keys)] == [], "never emitted"


def test_keys_of_a_step():
    step = make_step()
    assert_same(documented("Of a training step"), set(describe(step, alpha=1.0)) - set(step.report))


def test_keys_of_an_evaluation():
    stages, prompts = scripted_stages({0: ["a"] * 12, 1: ["b"] * 12})
    metrics = evaluate(stages, prompts, n=12, seed=0, families=OF_TRAINING).metrics
    assert_same(documented("Of an evaluation"), set(metrics))


def test_every_metric_that_can_be_chosen_is_documented():
    text = (DOCS.parent / "evaluation.md").read_text().split("\n## The metrics\n")[1].split("\n## ")[0]
    named = re.findall(r"`([^`]+)`", "".join(line for line in text.splitlines() if line.startswith("| ")))
    for name in {*FAMILIES, *METRICS}:
        assert any(each == name or (name.endswith("@") and each.startswith(name)) for each in named), name


def test_columns_of_the_completions():
    assert_same(documented("Columns of completions/"), set(table(make_step()).column_names))


def test_names_on_the_console():
    rows = dict(re.findall(r"^\| ([a-z ]+) \| `([^`]+)` \|", DOCS.read_text(), flags=re.MULTILINE))
    assert rows == {label: key for label, key, _ in TRAINING}
