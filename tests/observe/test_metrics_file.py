import json

import pytest

from dqo.errors import ConfigError
from dqo.observe.metrics_file import MetricsFile, read_metrics
from tests.helpers.steps import make_evaluation, make_step, send


def parse_strictly(line: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_each_step_and_evaluation_is_a_line_of_strict_json(tmp_path):
    file = MetricsFile(path=tmp_path / "metrics.jsonl")
    file.evaluated(0, make_evaluation(0.25))
    send(file, make_step(1))
    lines = [parse_strictly(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 0, **{f"eval/{key}": 0.25 for key in make_evaluation().metrics}} | {
        "eval/cosine_distance/correct": None
    }
    assert (lines[1]["step"], lines[1]["correct"], lines[1]["kl"]) == (1, 0.5, None)


def test_truncate_removes_the_lines_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path=path)
    send(file, make_step(1))
    offset = file.offset
    assert offset == path.stat().st_size
    send(file, make_step(2))
    file.close()
    resumed = MetricsFile(path=path)
    resumed.truncate(offset)
    send(resumed, make_step(2))
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    assert resumed.offset == path.stat().st_size


@pytest.mark.parametrize("offset", [99, 4])
def test_a_file_that_the_checkpoint_does_not_belong_to_is_refused(tmp_path, offset):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    file = MetricsFile(path=path)
    for sound in (0, 12, 24):
        file.require(sound)
    with pytest.raises(ConfigError, match=f"24 bytes and no line that ends at byte {offset}, where the checkpoint"):
        file.require(offset)


def test_a_half_written_last_line_is_ignored_and_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "rew')
    assert read_metrics(path) == [{"step": 1}]
    file = MetricsFile(path=path)
    file.require(12)
    file.truncate(12)
    send(file, make_step(2))
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
