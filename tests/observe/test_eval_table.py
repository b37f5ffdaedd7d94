"""The table that dqo-eval prints."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from dqo.observe.eval_table import print_evaluation
from tests.helpers.steps import HOSTILE

NONE = {"mean": None, "low": None, "high": None, "prompts": 0}
METRICS = {
    "pass@1": {"better": "higher", "kind": "quality", "text": ""},
    "vendi": {"better": "higher", "kind": "diversity", "text": ""},
    "compression_ratio": {"better": "lower", "kind": "diversity", "text": ""},
    "vendi/correct": {"better": "higher", "kind": "diversity", "text": ""},
}


def interval(mean: float, width: float, prompts: int = 16) -> dict:
    return {"mean": mean, "low": mean - width, "high": mean + width, "prompts": prompts}


def make_cell(name: str, share: float, temperature: float = 1.0) -> dict:
    metrics = {"pass@1": interval(share, 0.1), "vendi": interval(3.0, 0.5, 12), "compression_ratio": NONE}
    return {
        "policy": name, "path": f"runs/{name}/policy", "control": False, "left_out": 0, "other_rendering": None,
        "decoding": {"temperature": temperature, "top_p": None}, "metrics": {**metrics, "vendi/correct": NONE},
    }  # fmt: skip


def make_record(*cells: dict) -> dict:
    changes = {"pass@1": interval(-0.3, 0.1), "vendi": interval(1.0, 0.5), "vendi/correct": NONE}
    difference = {
        "policy": cells[-1]["policy"], "against": cells[0]["policy"], "decoding": cells[-1]["decoding"],
        "against_decoding": cells[0]["decoding"], "prompts": 16, "metrics": {**changes, "compression_ratio": NONE},
    }  # fmt: skip
    return {
        "n": 10, "prompts": 16, "command": "dqo-eval x", "embedding": "MiniLM", "metrics": METRICS, "cells": [*cells],
        "differences": [difference] if len(cells) > 1 else [], "missing": {"nli_disagreement": "eval.nli=FOLDER"},
    }  # fmt: skip


def printed(record: dict, width: int = 120) -> str:
    out = StringIO()
    print_evaluation(Console(file=out, width=width), record, Path("runs/eval"))
    return out.getvalue()


def test_mean_interval_and_prompts():
    text = printed(make_record(make_cell("a", 0.8), make_cell("b", 0.5)))
    assert "↑ pass@1" in text
    assert "0.800 [0.700 0.900]" in text
    assert "3.000 [2.500 3.500] (12)" in text
    assert "–: undefined for every policy: compression_ratio, vendi/correct" in text
    assert "b against a: gained vendi +1.000 [+0.500 +1.500]; paid pass@1 -0.300 [-0.400 -0.200]" in text
    assert "not measured: nli_disagreement; type eval.nli=FOLDER" in text
    assert "dqo-report runs/eval" in text


def test_a_bound_that_is_not_defined_is_shown():
    """Of the effective modes, where the upper bound of pcmd is 1."""
    cell = make_cell("a", 0.8)
    cell["metrics"]["vendi"] = {"mean": 10.0, "low": 2.5, "high": None, "prompts": 16}
    assert "10.0 [2.500 –]" in printed(make_record(cell))


def test_sentences_of_metrics_that_were_chosen_alone():
    record = make_record(make_cell("a", 0.8), make_cell("b", 0.5))
    for part in (record, record["differences"][0], *record["cells"]):
        part["metrics"] = {name: value for name, value in part["metrics"].items() if name == "compression_ratio"}
    assert "b against a: nothing that both have can be compared" in printed(record)
    record["differences"][0]["prompts"] = 0
    assert "b against a: no prompt in common" in printed(record)
    record["differences"][0]["metrics"]["compression_ratio"] = interval(-0.5, 0.2)
    assert "b against a: gained compression_ratio -0.500 [-0.700 -0.300]" in printed(record)


def test_decodings_are_named_where_they_differ():
    text = printed(make_record(make_cell("a", 0.8, 0.7), make_cell("a", 0.5, 1.2)))
    assert "a temperature=0.7" in text
    assert "a temperature=1.2 against a temperature=0.7" in text


def test_more_policies_than_fit_get_more_tables_with_the_first_one_in_each():
    text = printed(make_record(*(make_cell(f"policy{i}", 0.5) for i in range(5))), width=100)
    assert text.count("↑ pass@1") == 4
    assert all(line.rstrip() and len(line) <= 100 for line in text.splitlines() if "[0.4" in line)


def test_names_are_untrusted():
    text = printed(make_record(make_cell(HOSTILE, 0.8)))
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
