"""Faulty data: a user's file of JSON lines, and the folders of gsm8k and commongen."""

import json
from pathlib import Path

from tests.bad_input.harness import Case

JSONL = "task=jsonl task.held_out=1 task.chat_template=false max_completion_length=8 task.answer_column=answer"
LINE = b'{"prompt": "dog ball", "answer": "x"}\n'
OTHER = b'{"prompt": "cat ball", "answer": "y"}\n'
GSM = '{"question": "1 + 1?", "answer": "#### 2"}\n'


def lines(content: bytes | str, *says: str, typed: str = "", process: bool = False, more: tuple[str, ...] = ()) -> Case:
    """A case of task=jsonl with a file of two good lines, then ``content``."""
    content = content.encode() if isinstance(content, str) else content
    files = {"my.jsonl": LINE + OTHER + content}
    return Case(typed=f"{JSONL} task.path=my.jsonl {typed}", more=more, files=files, says=says, process=process)


def huge(folder: Path) -> None:
    row = json.dumps({"prompt": "dog " * 1_000_000, "answer": "x"}).encode()
    (folder / "my.jsonl").write_bytes(LINE + OTHER + row)


def only(content: bytes, *says: str) -> Case:
    return Case(typed=f"{JSONL} task.path=my.jsonl", files={"my.jsonl": content}, says=says)


DATA = [
    Case(typed=JSONL, says=("task=jsonl needs a file", "type task.path=my.jsonl")),
    Case(typed=f"{JSONL} task.path=gone.jsonl", says=("gone.jsonl: No such file", "type task.path=FILE")),
    Case(typed=f"{JSONL} task.path=.", says=(".: Is a directory", "type task.path=FILE")),
    only(b"", "my.jsonl: the file is empty", "type task.path=FILE"),
    only(b"\r\n\r\n", "my.jsonl: the file is empty"),
    only(b'[\n{"prompt": "a"}\n]\n', "line 1: not JSON", "looks like one JSON array, write one object per line"),
    only("{}".encode("utf-16"), "line 1: not UTF-8", "convert the file"),
    only(LINE, "task.held_out=1", "1 different prompts", "add lines, or task.eval_path=FILE"),
    lines(b'{"prompt": "dog"\n', "my.jsonl, line 3: not JSON"),
    lines(b'{"prompt": "\xe9"}\n', "my.jsonl, line 3: not UTF-8", "convert the file"),
    lines("[1]\n", "line 3: an array, but an object"),
    lines("null\n", "line 3: null, but an object"),
    lines('{"prompt": "a", "answer": "b", "prompt": "c"}\n', "line 3", '"prompt" occurs twice', "fix the line"),
    lines('{"prompt": "a", "answer": {"b": 1, "b": 2}}\n', "line 3", '"b" occurs twice'),
    lines('{"prompt": "a", "answer": ' + "1" * 5000 + "}\n", "line 3: cannot be read", "4300 digits"),
    lines('{"prompt": "a", "answer": ' + "[" * 100_000 + "\n", "line 3: cannot be read", "recursion"),
    lines('{"prompt": "half a sign \\ud83d", "answer": "b"}\n', "line 3: cannot be read", "surrogates"),
    lines('{"answer": "b"}\n', 'line 3: there is no field "prompt", only answer', "type task.prompt_column=NAME"),
    lines('{"\\u001b[2J": 1}\n', 'there is no field "prompt", only \\x1b[2J', "type task.prompt_column=NAME"),
    lines('{"prompt": null, "answer": "b"}\n', 'line 3: "prompt" is null; text or a list of messages is needed'),
    lines('{"prompt": {"text": "a"}, "answer": "b"}\n', 'line 3: "prompt" is an object'),
    lines('{"prompt": "  ", "answer": "b"}\n', "line 3: the prompt is empty"),
    lines('{"prompt": "a", "answer": null}\n', '"answer" (task.answer_column) is null; text or a number is needed'),
    lines('{"prompt": "a", "answer": "b", "completions": 1}\n', '"completions" is an argument', "type task.columns="),
    lines("", 'line 1: there is no field "text", only prompt, answer', typed="task.prompt_column=text"),
    lines("", 'line 1: there is no field "meta.text"', typed="task.prompt_column=meta.text"),
    lines("", 'line 1: there is no field "b"', "type task.columns.a=NAME", more=("task.columns={a: b}",)),
    lines("", "task.held_out=2", "2 different prompts", "type task.held_out=1", typed="task.held_out=2"),
    lines("", "task.held_out=0", "type task.held_out=64", typed="task.held_out=0"),
    lines("", "trained on too", "my.jsonl, line 1", typed="task.eval_path=my.jsonl"),
    lines("", "task=jsonl has no reward of its own", "type reward=python", typed="task.answer_column=null"),
    lines("", "task.template: ", "type task.template=", more=("task.template={{ prompt",)),
    lines("", "line 1: task.template fails", "the line has prompt, answer", more=("task.template={{ 1 / 0 }}",)),
    lines("", "line 1: task.template fails: 'b' is undefined", more=("task.template={{ b }}",), process=True),
    lines("", "line 1: task.template fails", "__class__", more=("task.template={{ prompt.__class__.__mro__ }}",)),
    lines(
        "",
        "line 1: task.template fails",
        "Range too big",
        more=("task.template={% for i in range(9999999) %}{% endfor %}",),
    ),
    lines('{"prompt": [], "answer": "b"}\n', "has no messages"),
    lines('{"prompt": [{"role": "user"}], "answer": "b"}\n', 'message 1: {"role": …, "content": …} is needed'),
    lines('{"prompt": [{"role": "me", "content": "a"}], "answer": "b"}\n', "role 'me' is none of system, user"),
    lines('{"prompt": [{"role": "user", "content": "a"}], "answer": "b"}\n', "messages need a chat template"),
    lines(
        '{"prompt": "' + "dog " * 70 + '", "answer": "b"}\n', "line 3: the prompt has 70 tokens", "task.skip_long=true"
    ),
    Case(
        typed=f"{JSONL} task.path=my.jsonl", files=huge, says=("line 3: the prompt has 1000000 tokens", "context of 64")
    ),
    Case(
        command="sft",
        typed=f"{JSONL} task.path=my.jsonl",
        files={"my.jsonl": LINE + OTHER},
        says=("no answers to learn from", "task=jsonl task.completion_column=NAME"),
    ),
    lines("", "no answers to learn from", "task.completion_column=NAME", typed="warm_start=true"),
    Case(
        typed="task=gsm8k task.data_dir=nowhere reward=check task.chat_template=false max_completion_length=8",
        says=("nowhere/train.jsonl: No such file", "type task.data_dir=FOLDER with train.jsonl and test.jsonl"),
    ),
    Case(
        typed="task=gsm8k task.data_dir=data reward=check task.chat_template=false max_completion_length=8",
        files={"data/train.jsonl": GSM},
        says=("data/test.jsonl: No such file", "type task.data_dir=FOLDER with train.jsonl and test.jsonl"),
    ),
    Case(
        typed="task=gsm8k task.data_dir=data reward=check task.chat_template=false max_completion_length=8",
        files={"data/train.jsonl": GSM, "data/test.jsonl": '{"question": "?", "answer": "two"}\n'},
        says=("data/test.jsonl, line 1", '"#### " and a number'),
    ),
    Case(
        typed="task=gsm8k task.data_dir=data reward=check task.chat_template=false max_completion_length=8",
        files={"data/train.jsonl": GSM, "data/test.jsonl": GSM.replace("1 +", "2 +")},
        says=("task.held_out=200: the test split has 1 rows", "type task.held_out=1"),
    ),
    Case(
        typed="task=gsm8k reward=check max_completion_length=8",
        says=("the hub is out of reach", "type task.data_dir=FOLDER with train.jsonl and test.jsonl"),
    ),
    Case(
        typed="task=commongen task.data_dir=nowhere task.chat_template=false max_completion_length=8",
        says=("nowhere/commongen.train.src_alpha.txt: No such file", "type task.data_dir=FOLDER"),
    ),
    Case(
        typed="task=commongen task.data_dir=data task.chat_template=false max_completion_length=8",
        files={
            "data/commongen.train.src_alpha.txt": "dog ball\ncat ball\n",
            "data/commongen.train.tgt.txt": "A dog.\n",
        },
        says=("commongen.train.src_alpha.txt, line 2", "do not match line by line", "type task.data_dir=FOLDER"),
    ),
]
