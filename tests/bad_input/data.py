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


def maths(content: str, *says: str, typed: str = "") -> Case:
    """A case of reward=math with a file of two good lines, then ``content``."""
    good = '{"prompt": "dog ball", "answer": "7/2"}\n{"prompt": "cat ball", "answer": 8}\n'
    task = JSONL.replace("task.answer_column=answer", "reward=math")
    return Case(typed=f"{task} task.path=my.jsonl {typed}", files={"my.jsonl": good + content}, says=says)


def huge(folder: Path) -> None:
    row = json.dumps({"prompt": "dog " * 1_000_000, "answer": "x"}).encode()
    (folder / "my.jsonl").write_bytes(LINE + OTHER + row)


def only(content: bytes, *says: str) -> Case:
    return Case(typed=f"{JSONL} task.path=my.jsonl", files={"my.jsonl": content}, says=says)


def table(content: bytes, *says: str) -> Case:
    return Case(typed=f"{JSONL} task.path=my.csv", files={"my.csv": content}, says=says)


DATA = [
    Case(typed=JSONL, says=("task=jsonl needs a file", "type task.path=my.jsonl")),
    Case(typed=f"{JSONL} task.path=gone.jsonl", says=("gone.jsonl: No such file", "type task.path=FILE")),
    Case(typed=f"{JSONL} task.path=.", says=("is a folder that datasets.save_to_disk has not", "type task.path=FILE")),
    only(b"", "my.jsonl: the file is empty", "type task.path=FILE"),
    only(b"\r\n\r\n", "my.jsonl: the file is empty"),
    only(b'[\n{"prompt": "a"},\n{"prompt": "b"}\n', "line 4: not JSON", "Expecting ',' or ']'"),
    only(b'[\n{"prompt": "a"},\n3]\n', "row 2: a number, but an object"),
    only(b'{\n"prompt": "a"\n}\n', "line 1: not JSON", "one object per line is needed, or one array of objects"),
    only(b"prompt,answer\na,b\n", "line 1: not JSON", "does the file hold csv? name it .csv"),
    only(b"PK\x03\x04 a table", "is an Excel or zip file", "csv or parquet is needed", "type task.path=FILE"),
    only(b"PAR1 and no more", "my.jsonl: cannot be read as Parquet", "type task.path=FILE"),
    only(b"\x1f\x8b\x08 and no more", "cannot be unpacked", "type task.path=FILE"),
    table(b"prompt,answer\na,b\nc,d,e\n", "my.csv, line 3: 3 values, but the first line names 2", "double quotes"),
    table(b"prompt,answer,prompt\na,b,c\n", 'two columns are called "prompt"', "rename one"),
    table(b'prompt,answer\na,"b\n', "my.csv, line 2: not csv", "mend the double quotes"),
    table(b"text;answer\na;b\n", 'my.csv, line 2: there is no field "prompt", only text, answer', "prompt_column=NAME"),
    table(b"prompt,answer\na,\nb,c\n", 'my.csv, line 2: "answer" (task.answer_column) is null'),
    table(b'{"prompt": "a", "answer": "b"}\n', "my.csv holds JSON, not csv", "a name that ends in .jsonl"),
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
    lines(
        """{"prompt": "[{'role': 'user', 'content': 'a'}]", "answer": "b"}\n""",
        "line 3: the prompt is text with a list of messages",
    ),
    lines('{"prompt": "a", "answer": NaN}\n', '"answer" (task.answer_column) is null; text or a number is needed'),
    maths(
        '{"prompt": "a", "answer": "Paris"}\n',
        """my.jsonl, line 3: "answer" is 'Paris'""",
        "(1 of 3 rows are like that)",
    ),
    maths('{"prompt": "a", "answer": null}\n', 'line 3: "answer" is null', "type reward.on_bad_answer=skip"),
    maths('{"prompt": "a", "answer": [1, 2]}\n', 'line 3: "answer" is [1, 2]', "reward.on_bad_answer=mask"),
    maths('{"prompt": "a", "answer": ""}\n', "line 3: \"answer\" is ''", typed="dry_run=true"),
    maths('{"prompt": "a", "answer": "3 5/2"}\n', "line 3: \"answer\" is '3 5/2'"),
    maths('{"prompt": "a"}\n', 'line 3: "answer" is null'),
    maths("", "reward.on_bad_answer=drop", "mask", typed="reward.on_bad_answer=drop"),
    maths(
        "", "reward.answer_column=gold: there is no such column; there are answer", typed="reward.answer_column=gold"
    ),
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
    lines("", "line 1: task.template fails: 'b' is undefined", more=("task.template={{ b }}",)),
    lines("", "line 1: task.template fails", "__class__", more=("task.template={{ prompt.__class__.__mro__ }}",)),
    lines(
        "",
        "line 1: task.template fails",
        "Range too big",
        more=("task.template={% for i in range(9999999) %}{% endfor %}",),
    ),
    lines('{"prompt": [], "answer": "b"}\n', "has no messages"),
    lines('{"prompt": [{"role": "user"}], "answer": "b"}\n', 'message 1: {"role": …, "content": …} is needed'),
    lines(
        '{"prompt": [{"role": "me", "content": "a"}], "answer": "b"}\n', "role 'me' is none of system, developer, user"
    ),
    lines('{"prompt": [{"role": "user", "content": "a"}], "answer": "b"}\n', "messages need a chat template"),
    lines("", "task.date=friday: no date", "type task.date=2026-07-31", typed="task.date=friday"),
    lines("", "task.chat_template_kwargs.a: no chat template is used", typed="task.chat_template_kwargs.a=1"),
    lines("", 'there is no field "tools", only prompt, answer', typed="task.tools_column=tools"),
    lines(
        '{"prompt": "a", "answer": "b", "tools": [{"name": "f"}]}\n',
        "line 3: tools need a chat template",
        typed="task.tools_column=tools",
    ),
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
        typed="task=noveltybench task.data_dir=data task.chat_template=false max_completion_length=8",
        files={"data/curated.jsonl": LINE},
        says=("reward=none judges nothing", "type dqo-eval"),
    ),
    Case(
        typed="task=noveltybench task.data_dir=data task.chat_template=false max_completion_length=8 reward=check",
        files={"data/curated.jsonl": LINE},
        says=("has no prompts to train on", "type dqo-eval POLICY"),
    ),
    Case(
        typed="task=modebench task.data_dir=nowhere task.chat_template=false max_completion_length=8",
        says=("nowhere/level1/countdown/train.parquet: No such file", "type task.data_dir=FOLDER"),
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
