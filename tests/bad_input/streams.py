"""Faulty data in several files, in other formats, streamed, and of the hub."""

import gzip

from tests.bad_input.data import JSONL, LINE, OTHER
from tests.bad_input.harness import Case, Files

HUB = "task=hf_dataset task.chat_template=false max_completion_length=8"
ARRAY = b'[{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]'


def files(typed: str, given: Files, *says: str, process: bool = False) -> Case:
    return Case(typed=f"{JSONL} {typed}", files=given, says=says, process=process)


def streamed(content: bytes, *says: str, name: str = "my.jsonl", typed: str = "", process: bool = False) -> Case:
    """A case of two good lines, then ``content``, that stay on the disk."""
    return files(
        f"task.path={name} task.streaming=true {typed}", {name: LINE + OTHER + content}, *says, process=process
    )


STREAMS = [
    files("task.path=no*.jsonl", {}, "no*.jsonl: no file has such a name", "type task.path=FILE"),
    files("task.path=[my.jsonl,gone.csv]", {"my.jsonl": LINE + OTHER}, "gone.csv: No such file", "type task.path=FILE"),
    files("task.path=[]", {}, "task=jsonl needs a file", "type task.path=my.jsonl"),
    files("task.path=[my.jsonl,3]", {"my.jsonl": LINE + OTHER}, "task.path"),
    files("task.path=data", {"data/a.txt": LINE}, "no file in it ends in .jsonl", "type task.path=FILE"),
    files(
        "task.path=data", {"data/test.jsonl": LINE, "data/dev.csv": "prompt\n"},
        "files of validation, test, and none of train", "type task.path=FILE",
    ),
    files("task.path=data", {"data/a.jsonl": LINE + OTHER, "data/b.jsonl": "3\n"}, "data/b.jsonl, line 1: a number"),
    files(
        "task.path=my.jsonl task.eval_path=data", {"my.jsonl": LINE + OTHER, "data/c.jsonl": LINE},
        "data/c.jsonl, line 1: this held-out prompt is trained on too",
    ),
    files("task.path=a.gz", {"a.gz": gzip.compress(LINE * 9)[:-9]}, "a.gz, line", "cannot be unpacked"),
    files("task.path=a.zst", {"a.zst": b"\x28\xb5\x2f\xfdno more"}, "a.zst, line 1: cannot be unpacked"),
    files("task.path=a.jsonl task.format=yaml", {"a.jsonl": LINE}, "task.format=yaml", "json", "csv"),
    files("task.path=a.jsonl task.format=csv", {"a.jsonl": LINE}, "holds JSON, not csv"),
    files("task.path=a.csv task.format=parquet", {"a.csv": "prompt\na\n"}, "a.csv: cannot be read as Parquet"),
    files("task=parquet task.path=a.jsonl", {"a.jsonl": LINE}, "a.jsonl: cannot be read as Parquet"),
    files("task.path=my.jsonl task.streaming=often", {"my.jsonl": LINE}, "task.streaming=often", "auto"),
    streamed(b'{"prompt": "dog"\n', "my.jsonl, line 3: not JSON", process=True),
    streamed(b'{"prompt": "dog", "answer": null}\n', 'line 3: "answer" (task.answer_column) is null'),
    streamed(b'{"prompt": "\xe9"}\n', "line 3: not UTF-8", "convert the file"),
    streamed(b'{"prompt": "dog", "answer": "a", "prompt": "cat"}\n', 'line 3: cannot be read ("prompt" occurs twice'),
    streamed(b'{"prompt": "half \\ud83d", "answer": "b"}\n', "line 3: cannot be read", "surrogates"),
    streamed(b'{"prompt": [{"role": "user", "content": "a"}], "answer": "b"}\n', "messages need a chat template"),
    streamed(
        b'{"prompt": "' + b"dog " * 70 + b'", "answer": "b"}\n', "line 3: the prompt has 70 tokens", "skip_long=true"
    ),
    streamed(b"", "task.held_out=2", "2 different prompts", "type task.held_out=1", typed="task.held_out=2"),
    streamed(b"", "trained on too", "my.jsonl, line 1", typed="task.eval_path=my.jsonl"),
    streamed(b"", 'no field "tools", only prompt, answer', typed="task.tools_column=tools"),
    streamed(b"", "no answers to learn from", "task.completion_column=NAME", typed="warm_start=true"),
    files(
        "task.path=my.json task.streaming=true", {"my.json": ARRAY}, "my.json is one JSON array, which is read whole",
        "type task.streaming=false",
    ),
    files(
        "task.path=a.csv task.streaming=true", {"a.csv": 'prompt,answer\na,b\nc,"d\n'}, "a.csv, line 3: not csv",
        "mend the double quotes",
    ),
    Case(typed=HUB, says=("task=hf_dataset needs a data set of the hub", "type task.name=ORG/NAME")),
    Case(
        typed=f"{HUB} task.name=org/none", process=True,
        says=("task.name=org/none: the hub is out of reach", "task=jsonl task.path=FILE"),
    ),
    Case(
        typed=f"{HUB} task.name=data task.split=tran", files={"data/train.jsonl": LINE},
        says=("task.name=data", "tran", "task.split"),
    ),
    Case(typed=f"{HUB} task.name=data task.split=", files={"data/train.jsonl": LINE}, says=("task.split", "train")),
    Case(typed="task=org/name", says=("task=org/name: there is no such", "type task=hf_dataset task.name=org/name")),
    Case(typed=f"{HUB} task.path=a.jsonl", says=("unknown key task.path: it belongs to task=jsonl", "type task=jsonl")),
]  # fmt: skip
