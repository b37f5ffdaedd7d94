"""dqo-rm as a user types it, in this process."""

import json
import random

import pytest
import torch

from dqo.models.classifier import Classifier
from tests.factories import WORDS, tiny_llama, word_tokenizer
from tests.helpers.commands import run_in_process

LEARNING = ("rm.learning_rate=3e-3", "rm.max_length=32", "rm.held_out=0.25", "rm.epochs=2")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(layers=1).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def rm(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*more: str) -> int:
        ours = ("rm.path=rows.jsonl", "model=hf", f"model.path={base}", "run_dir=run", "device=cpu")
        return run_in_process("rm", [*ours, *more], monkeypatch)

    return run


def pairs(count: int) -> list[dict[str, str]]:
    """An answer that ends in w1 is preferred to one in w2, whatever its length."""
    generator = random.Random(0)
    return [
        {
            "prompt": " ".join(generator.choices(WORDS[10:], k=4)),
            **{
                side: " ".join([*generator.choices(WORDS[10:], k=generator.randrange(1, 5)), word])
                for side, word in (("chosen", "w1"), ("rejected", "w2"))
            },
        }
        for _ in range(count)
    ]


def write_rows(folder, rows):
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.parametrize("lora", [(), ("rm.lora_r=4", "rm.learning_rate=1e-2", "rm.gradient_checkpointing=true")])
def test_a_reward_model_from_pairs_tells_held_out_answers_apart(rm, tmp_path, capfd, lora):
    write_rows(tmp_path, pairs(400))
    assert rm(*LEARNING, *lora) == 0
    measured = json.loads((tmp_path / "run" / "rm.json").read_text())
    assert measured["accuracy"] > 0.95 and measured["nll"] < 0.3 and 70 < measured["pairs"] < 130
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.3 * losses[0]
    text = capfd.readouterr().out
    assert "accuracy" in text and "next: dqo-train reward=reward_model reward.path=run/model" in text
    folder = tmp_path / "run" / "model"
    read = Classifier(str(folder), key="reward.path", device=torch.device("cpu"), dtype=torch.float32)
    better, worse = (read.pair_logits([("w20 w21", f"w30 {word}")]).item() for word in ("w1", "w2"))
    assert better > worse
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"


def test_a_reward_model_from_scored_texts(rm, tmp_path):
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "score": 50 + 10 * (side == "chosen")}
        for row in pairs(200)
        for side in ("chosen", "rejected")
    ]
    write_rows(tmp_path, rows)
    assert rm(*LEARNING) == 0
    measured = json.loads((tmp_path / "run" / "rm.json").read_text())
    assert measured["correlation"] > 0.9 and measured["mse"] < 0.3 and measured["accuracy"] > 0.95
    assert (measured["score_mean"], measured["score_deviation"]) == (55, 5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("rm.path=null",), "rm.path has no value: what is to be learned from? type rm.path=FILE"),
        (("rm.path=missing.jsonl",), "missing.jsonl: No such file"),
        (("rm.max_length=500",), "rm.max_length=500: the model reads at most 128 tokens; type rm.max_length=128"),
        (("rm.eval_path=scored.jsonl",), "rm.eval_path: one file has pairs, the other scores; type rm.eval_path=null"),
        (("rm.path=scored.jsonl",), "rm.path: all scores are 1.0; a reward model needs different ones"),
        (("nproc=2",), "dqo-rm is one process"),
        (("rm.epoch=1",), "rm.epoch"),
        (("rm.held_out=0",), "rm.held_out"),
        (("rm.dtype=float16",), "rm.dtype"),
        (("resume=run",), "resume=run: no run is there; type resume=FOLDER_OF_A_RUN"),
        (("dry_run=true",), "dqo-rm has no dry run; leave dry_run out"),
        (("learning_rate=1e-4",), "learning_rate=1e-4: dqo-rm does not read learning_rate; type rm.learning_rate=1e-4"),
        (("alpha=2",), "alpha=2: dqo-rm does not read alpha; leave alpha out"),
        (("task=gsm8k",), "task=gsm8k: dqo-rm does not read task; leave task out"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(rm, tmp_path, capfd, overrides, message):
    write_rows(tmp_path, pairs(8))
    scored = [{"prompt": prompt, "completion": "w1", "score": 1} for prompt in ("w1", "w2", "w3", "w4", "w5", "w6")]
    (tmp_path / "scored.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in scored))
    assert rm(*overrides) == 2
    error = capfd.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_the_same_rows_alone(rm, tmp_path, monkeypatch, capfd):
    write_rows(tmp_path, pairs(40))
    assert rm(*LEARNING, "rm.epochs=1") == 0
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run_in_process("rm", ["resume=run"], monkeypatch) == 0
    assert "run is complete; type run_dir=ANOTHER_FOLDER to train anew" in capfd.readouterr().out
    (tmp_path / "run" / "rm.json").unlink()
    write_rows(tmp_path, pairs(41))
    assert run_in_process("rm", ["resume=run"], monkeypatch) == 2
    assert (
        "resume: the rows of rm.path, or how the model's tokenizer renders them, are not those"
        in capfd.readouterr().err
    )
    assert run_in_process("rm", ["resume=run", "rm.learning_rate=1e-4"], monkeypatch) == 2
    assert "rm.learning_rate" in capfd.readouterr().err


def test_a_built_model_without_files_is_refused(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path, pairs(8))
    assert run_in_process("rm", ["rm.path=rows.jsonl", "model=tiny", "device=cpu"], monkeypatch) == 2
    assert "model=tiny: has no files to begin from; type model=hf model.path=FOLDER" in capfd.readouterr().err
