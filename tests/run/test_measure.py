"""dqo-eval's second phase: from completions to eval.json and the table."""

import json
from pathlib import Path

import pytest
import yaml

from dqo.config.typed import to_yaml
from dqo.errors import ConfigError
from dqo.evaluation import evaluate
from dqo.files.answers_table import Cell, Decoding, write
from dqo.metrics.names import evaluation_metrics
from dqo.run import measure
from dqo.run.gather import Instruments, gather
from dqo.run.read_completions import own_source
from dqo.run.scorers import scorers_of
from tests.helpers.composing import composed_evaluation
from tests.helpers.families import OF_EVALUATION, OF_TRAINING
from tests.helpers.judge_server import judge_server, says
from tests.helpers.judged import make_answers
from tests.helpers.scripted_stages import scripted_stages

ABOUT = {"task": "cities", "n": 4, "seed": 7, "path": "runs/x/policy", "settings": {"alpha": 1.0}}
FEW = ["Paris", "Paris", "Paris", "x"]
MANY = ["Paris", "Lima", "Oslo", "go"]


def write_policy(folder: Path, number: int, texts: list[str], *, prompts: int = 6, about: dict = ABOUT) -> None:
    cell = Cell(policy=f"alpha={number}", decoding=Decoding(temperature=1.0))
    place = folder / "completions" / f"{number}_alpha={number}_t1"
    place.mkdir(parents=True)
    groups = [
        make_answers(texts[p % 2 :] + texts[: p % 2], correct=[text[0].isupper() for text in texts], position=p)
        for p in range(prompts)
    ]
    write(place / "part_000_00000.parquet", cell, groups[:4], about)
    write(place / "part_000_00001.parquet", cell, groups[4:], about)


def run(folder: Path, *overrides: str) -> dict:
    config = composed_evaluation(*overrides)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    measure.run(config, folder)
    return json.loads((folder / "eval.json").read_text())


def test_two_policies(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    write_policy(tmp_path, 0, FEW)
    write_policy(tmp_path, 1, MANY)
    record = run(tmp_path)
    assert (record["task"], record["n"], record["prompts"], record["seed"]) == ("cities", 4, 6, 7)
    assert [*record["metrics"]] == evaluation_metrics(4, OF_EVALUATION)
    first, second = record["cells"]
    assert (second["policy"], second["path"], second["settings"]) == ("alpha=1", "runs/x/policy", {"alpha": 1.0})
    assert first["metrics"]["pcmd"] == {"mean": 0.5, "low": None, "high": None, "prompts": 6}
    assert second["metrics"]["effective_modes"]["mean"] is None  # all four differ
    assert second["per_prompt"]["pcmd"] == [1.0] * 6
    assert second["pass_curve"]["k"] == [1, 2, 3, 4]
    assert [group["position"] for group in second["groups"]] == [0, 1, 2, 3]
    assert second["groups"][0]["cosines"][0][0] == 1.0
    (difference,) = record["differences"]
    assert (difference["policy"], difference["against"]) == ("alpha=1", "alpha=0")
    assert difference["metrics"]["pcmd"]["mean"] == 0.5
    assert "nli_disagreement" in record["missing"]
    printed = capsys.readouterr().out
    assert "alpha=1 against alpha=0" in printed
    assert "type eval.nli=FOLDER" in printed
    assert f"dqo-report {tmp_path}" in printed.replace("\n", "")


def test_parquet_gives_the_metrics_of_the_direct_evaluation(tmp_path):
    stages, prompts = scripted_stages({0: ["Paris", "paris", "Lima", "cut"], 1: ["Oslo", "broken", "so so", "so so"]})
    direct = evaluate(stages, prompts, n=4, seed=0, families=OF_TRAINING)
    write(tmp_path / "part.parquet", Cell(policy="p", decoding=Decoding()), direct.answers, {"n": 4})
    instruments = Instruments(families=OF_TRAINING, embed=stages.embed, scorers=scorers_of_none())
    (gathered,) = gather([own_source(tmp_path)], 4, instruments, controls=False)
    for name, values in direct.per_prompt.items():
        assert gathered.values()[name] == pytest.approx(values, rel=0, abs=0, nan_ok=True), name


def test_from_lines_of_another_tool(tmp_path):
    rows = [{"prompt": f"{p}?", "completion": text} for text in ("a b", "c d", "a b") for p in range(3)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"prompt": "0?", "completion": "more"}])))
    folder = tmp_path / "out"
    folder.mkdir()
    record = run(folder, f"from=[{tmp_path / 'mine.jsonl'}]")
    (cell,) = record["cells"]
    assert (record["task"], record["n"], cell["policy"], cell["path"]) == (None, 3, "mine", None)
    assert cell["left_out"] == 1  # the prompt with a fourth completion
    assert cell["metrics"]["distinct_1"]["mean"] == pytest.approx(4 / 6)
    assert cell["metrics"]["distinct_1"]["prompts"] == 2
    assert cell["metrics"]["reward"] == {"mean": None, "low": None, "high": None, "prompts": 0}
    assert cell["pass_curve"] is None


def test_controls_are_made_of_the_first_policy(tmp_path, capsys):
    write_policy(tmp_path, 0, FEW)
    write_policy(tmp_path, 1, MANY)
    record = run(tmp_path, "controls=true", "eval.metrics=[pass,distinct_1,self_bleu_diversity]")
    controls = [cell for cell in record["cells"] if cell["control"]]
    assert [cell["policy"] for cell in controls] == ["copies", "random text", "repeated text", "other languages"]
    assert controls[0]["metrics"]["distinct_1"]["mean"] == 0.25
    assert controls[0]["metrics"]["pass@1"]["mean"] == 1.0
    assert controls[0]["path"] is None
    assert len(record["differences"]) == 1
    assert "[copies]" in capsys.readouterr().out
    assert record["embedding"] is None  # no chosen metric needs it


def test_a_run_that_is_not_measured_writes_nothing(tmp_path):
    write_policy(tmp_path, 0, FEW)
    write_policy(tmp_path, 1, MANY, about={**ABOUT, "task": "concepts"})
    with pytest.raises(ConfigError, match="of the tasks cities and concepts"):
        run(tmp_path)
    assert not (tmp_path / "eval.json").exists()


def test_one_completion_of_each_prompt_has_no_diversity(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b", "correct": True}))
    with pytest.raises(ConfigError, match=r"one completion of each prompt.*type n=10 .* eval.metrics=\[reward,pass"):
        run(tmp_path, f"from=[{tmp_path / 'x.jsonl'}]")
    record = run(tmp_path, f"from=[{tmp_path / 'x.jsonl'}]", "eval.metrics=[reward,pass,finished]")
    assert record["cells"][0]["metrics"]["pass@1"]["mean"] == 1.0


def test_a_policy_with_other_numbers_of_completions_is_refused(tmp_path):
    rows = [{"policy": "a", "prompt": f"{p}", "completion": text} for p in range(3) for text in "xy"]
    rows += [{"policy": "b", "prompt": "0", "completion": text} for text in "xyz"]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ConfigError, match="b has 3 completions of a prompt, and most prompts have 2"):
        run(tmp_path, f"from=[{tmp_path / 'x.jsonl'}]")


def test_a_policy_that_is_there_twice_is_refused(tmp_path):
    """The folder of two evaluations: each prompt would count twice."""
    for name in ("one", "two"):
        write_policy(tmp_path / name, 0, FEW)
    with pytest.raises(ConfigError, match=r"alpha=0 for prompt 0 2 times, .* type the folders or files apart"):
        run(tmp_path, f"from={tmp_path}", "eval.metrics=[pcmd]")


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    for name in ("one", "two"):
        write_policy(tmp_path / name, 0, FEW if name == "one" else MANY)
    record = run(tmp_path, f"from=[{tmp_path}/one,{tmp_path}/two/completions]", "eval.metrics=[pcmd]")
    assert [cell["policy"] for cell in record["cells"]] == ["one/alpha=0", "two/alpha=0"]
    assert record["differences"][0]["metrics"]["pcmd"]["mean"] == 0.5


def test_how_noveltybenchs_classes_were_found_is_said(tmp_path, capsys):
    write_policy(tmp_path, 0, FEW)
    assert run(tmp_path, "eval.metrics=[noveltybench]")["partition"] == "words and embeddings"
    assert "is decided by words and embeddings" in " ".join(capsys.readouterr().out.split())
    assert run(tmp_path, "eval.metrics=[pcmd]")["partition"] is None


def test_what_the_judge_was_asked_before_is_not_asked_again(tmp_path):
    write_policy(tmp_path / "first", 0, MANY)
    (tmp_path / "second").mkdir()
    with judge_server(lambda number, request: says("Score: 4")) as server:
        keys = ("eval.metrics=[judge_diversity]", f"eval.judge.base_url={server.url}", "eval.judge.model=m")
        record = run(tmp_path / "first", *keys)
        asked = len(server.requests)
        assert asked > 0
        for place in ("first", "first/completions"):
            again = run(tmp_path / "second", *keys, f"from=[{tmp_path}/{place}]")
            assert again["cells"][0]["per_prompt"] == record["cells"][0]["per_prompt"]
    assert len(server.requests) == asked
    assert record["cells"][0]["metrics"]["judge_diversity"]["mean"] == 4.0


def scorers_of_none():
    import torch

    return scorers_of(composed_evaluation().eval, torch.device("cpu"), None)
