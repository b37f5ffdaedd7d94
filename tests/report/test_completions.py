import base64
import gzip
import json

from dqo.report.completions import LONGEST, packed
from dqo.report.reading import read_folders
from tests.helpers.report_folders import write_eval, write_run

HOSTILE = (
    "</script><script>window.pwned=1</script>", "<img src=x onerror=window.pwned=1>", "**bold** [x](javascript:1)",
    "\u202egnp.exe", "zero\u200bwidth", "\x00\x07\x1b[2J", "z" * 1_000_000, "\udc80 lone",
)  # fmt: skip


def unpacked(*folders, most=1000):
    text, count = packed(read_folders([*map(str, folders)]), most)
    data = json.loads(gzip.decompress(base64.b64decode(text)))
    assert len(data["text"]) == len(data["origin"]) == len(data["prompt"]) == len(data["correct"]) == count
    return data


def test_held_out_completions_come_first_then_the_last_steps(tmp_path):
    data = unpacked(write_run(tmp_path / "a", steps=20, training=3))
    assert data["origins"] == [
        "a, held out after step 20", "a, training step 20", "a, training step 19", "a, training step 18",
        "a, held out before training",
    ]  # fmt: skip
    assert data["prompts"][data["prompt"][0]] == "Recommend city number 0 to visit."
    assert set(data["correct"]) <= {0, 1} and all(0 <= reward <= 1 for reward in data["reward"])


def test_no_more_than_asked_of_each_run(tmp_path):
    data = unpacked(write_run(tmp_path / "a"), write_run(tmp_path / "b", alpha=2), most=100)
    assert data["origin"].count(0) == 100 and len(data["text"]) == 200
    assert unpacked(tmp_path / "a", most=0)["text"] == []


def test_completions_of_an_evaluation_have_their_cell(tmp_path):
    data = unpacked(write_eval(tmp_path / "e", temperatures=(0.7, 1.0)))
    assert data["origins"][:2] == ["e, 0_alpha=0_t0.7", "e, 1_alpha=0_t1"] and len(data["text"]) == 6 * 160


def test_without_judgement_correct_is_null(tmp_path):
    data = unpacked(write_run(tmp_path / "a", judged=False, training=0))
    assert set(data["correct"]) == {None} and set(data["reward"]) == {None}


def test_hostile_completions_are_text_with_their_codes(tmp_path):
    run = write_run(tmp_path / "a", texts=HOSTILE[:-1], training=0)
    path = run / "evaluations" / "step_00020.json"
    record = json.loads(path.read_text())
    record["answers"][1]["texts"][0] = HOSTILE[-1]
    path.write_text(json.dumps(record))
    data = unpacked(run)
    assert all(text.replace("\n", "").isprintable() for text in data["text"])
    assert data["text"][3] == "\\u202egnp.exe" and data["text"][5] == "\\x00\\x07\\x1b[2J"
    assert "\\udc80 lone" in data["text"]
    assert len(data["text"][6]) == LONGEST
    assert data["cut"] == {"6": 1_000_000, "166": 1_000_000}  # after and before training
