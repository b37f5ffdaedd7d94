import base64
import hashlib
import json
import re

import pytest

from tests.helpers.report_folders import page_of, write_eval, write_run, write_sweep

HOSTILE = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>\u202e\x00"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return page_of(write_eval(tmp_path_factory.mktemp("e") / "e", controls=True), title=HOSTILE)


def test_the_page_loads_nothing(text):
    loading = r"<(?:link|iframe|object|embed|base|img)\b|<script[^>]*\bsrc=|@import|url\("
    assert not re.search(loading, text.partition("<script>")[0])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and "default-src &#39;none&#39;" in policy[1] and "unsafe-eval" not in policy[1]


def test_the_policy_allows_the_two_scripts_and_no_other(text):
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert {*re.findall(r"sha256-([^&]+)", text.partition("viewport")[0])} == hashes and len(scripts) == 2


def test_the_first_screen_has_the_sentence_the_choice_and_the_table(text):
    assert re.search("alpha=[12] is more diverse than alpha=0", text)
    assert re.search("For a loss of at most 2 points of pass@1 against alpha=0, take alpha=[12]: ", text)
    assert text.count("<th scope") == 3 and "<small>baseline</small>" in text
    assert "Not measured: nli_disagreement (needs eval.nli=FOLDER" in text


def test_text_from_outside_is_escaped_everywhere(tmp_path):
    run = write_run(tmp_path / "<img src=x>", texts=(HOSTILE,), settings={"task": {"_target_": f"x.{HOSTILE}"}})
    (run / "overrides.yaml").write_text(json.dumps([f"task.x={HOSTILE}"]))
    text = page_of(run, title=HOSTILE)
    assert "<script>document" not in text and "<img" not in text.partition("<script>")[0]
    assert "\u202e" not in text and "\x00" not in text
    assert "\\u202e" in text  # shown by its code


def test_a_policy_without_comparison_has_no_slider(tmp_path):
    text = page_of(write_run(tmp_path / "a", complete=False), most=0)
    assert 'id="loss"' not in text and "nothing to compare" in text and "No completions are kept here" in text


def test_a_partial_sweep_is_named_on_the_first_screen(tmp_path):
    jobs = [{"alpha": 0}, {"alpha": 1}, {"alpha": 2, "complete": False}]
    text = page_of(write_sweep(tmp_path / "s", jobs, planned="alpha=0,1,2"))
    first = text.partition("<main>")[0]
    assert "2 of 3 jobs are complete" in first and "not compared: measured before training alone" in first
    assert "one training run for each policy, with one seed" in first


def test_data_of_the_page_is_json(text):
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    assert data["figures"][0]["id"] == "tradeoff"
    assert sum(each["is_base"] for each in data["variants"]) == 1
    assert data["choice"]["unit"] == "points" and data["diversity"] in data["titles"]
