import json
from concurrent.futures import ThreadPoolExecutor

from dqo.files.answers_file import AnswersFile


def test_answers_come_back_but_for_those_without_a_score(tmp_path):
    answers = AnswersFile(tmp_path / "judge")
    answers.add("a", 7)
    answers.add("b", None)
    answers.add("c", 2.5)
    assert answers.scores == {"a": 7, "b": None, "c": 2.5}
    assert AnswersFile(tmp_path / "judge").scores == {"a": 7.0, "c": 2.5}
    assert AnswersFile(None, [tmp_path / "judge", tmp_path / "none"]).scores == {"a": 7.0, "c": 2.5}


def test_what_a_kill_or_an_editor_has_left_is_no_answer(tmp_path):
    lines = ['{"key": "a", "score": 7}', '{"key": "b", "sco', "7", "[]", '{"key": "c"}', '{"key": "d", "score": "x"}']
    (tmp_path / "answers_3.jsonl").write_bytes("\n".join(lines).encode() + b"\n\xff")
    answers = AnswersFile(tmp_path)
    assert answers.scores == {"a": 7.0}
    answers.add("b", 1)
    assert json.loads((tmp_path / "answers_0.jsonl").read_text().splitlines()[-1]) == {"key": "b", "score": 1}


def test_many_threads_may_add(tmp_path):
    answers = AnswersFile(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: answers.add(str(number), number), range(200)))
    assert AnswersFile(tmp_path).scores == {str(number): float(number) for number in range(200)}
