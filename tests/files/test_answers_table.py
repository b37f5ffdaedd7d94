import math

import pyarrow as pa
import pyarrow.parquet as pq

from dqo.files.answers_table import ROWS, Cell, Decoding, read, read_about, read_positions, write
from dqo.records import Answers, Prompt

CELL = Cell(policy="alpha=1", decoding=Decoding(temperature=0.7, top_p=0.9, top_k=50, min_p=0.0))


def group(position: int, texts: tuple[str, ...] = ("a", "b"), **fields) -> Answers:
    n = len(texts)
    given = {
        "prompt": Prompt(position=position, tokens=(), content=f"prompt {position}", columns={}),
        "texts": texts, "keys": tuple(text.upper() for text in texts), "correct": (True,) * n,
        "rewards": (0.5,) * n, "finished": (True,) * n, "lengths": (3,) * n,
    }  # fmt: skip
    return Answers(**{**given, **fields})


def test_what_was_written_is_read(tmp_path):
    groups = [group(3, ("a", "é\u202e\x00"), finished=(True, False), lengths=(1, 9)), group(0, correct=None)]
    write(tmp_path / "part.parquet", CELL, groups, {"n": 2})
    assert list(read([tmp_path / "part.parquet"])) == [(CELL, each) for each in groups]
    assert read_positions(tmp_path / "part.parquet") == {0, 3}
    assert read_about(tmp_path / "part.parquet") == {"n": 2}


def test_invalid_completions_are_null_in_the_file_and_nan_when_read(tmp_path):
    write(tmp_path / "part.parquet", CELL, [group(0, rewards=(math.nan, 1.5), correct=(False, True))], {})
    assert pq.read_table(tmp_path / "part.parquet")["reward"].to_pylist() == [None, 1.5]
    [(_, answers)] = read([tmp_path / "part.parquet"])
    assert answers.valid == (False, True)


def test_where_no_reward_is_known_there_is_no_such_column(tmp_path):
    unjudged = group(0, rewards=None, correct=None)
    write(tmp_path / "part.parquet", CELL, [unjudged], {})
    assert "reward" not in pq.read_schema(tmp_path / "part.parquet").names
    assert [answers for _, answers in read([tmp_path / "part.parquet"])] == [unjudged]


def test_settings_that_the_rollout_has_not_are_null(tmp_path):
    cell = Cell(policy="tiny", decoding=Decoding())
    write(tmp_path / "part.parquet", cell, [group(0)], {})
    assert [found for found, _ in read([tmp_path / "part.parquet"])] == [cell]


def test_a_group_over_the_border_of_two_row_groups_stays_one(tmp_path):
    few, many = group(0, ("a",) * (ROWS - 1)), group(1, ("b",) * (ROWS + 2))
    write(tmp_path / "part.parquet", CELL, [few, many], {})
    assert pq.ParquetFile(tmp_path / "part.parquet").num_row_groups == 3
    assert [len(answers.texts) for _, answers in read([tmp_path / "part.parquet"])] == [ROWS - 1, ROWS + 2]


def test_a_conversation_is_kept_as_text(tmp_path):
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "A city?"})
    prompt = Prompt(position=0, tokens=(1, 2), content=messages, columns={"answer": 7})
    write(tmp_path / "part.parquet", CELL, [group(0, prompt=prompt)], {})
    [(_, answers)] = read([tmp_path / "part.parquet"])
    assert answers.prompt == Prompt(position=0, tokens=(), content="system: Be brief.\nuser: A city?", columns={})


def test_a_file_of_another_tool_says_nothing_about_itself(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "other.parquet")
    assert read_about(tmp_path / "other.parquet") == {}
