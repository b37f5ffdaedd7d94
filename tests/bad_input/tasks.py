"""Faulty keys and folders of the tasks with public data sets: scitldr, cnn_dailymail, dolly, stories, math,
reasoning_gym."""

import json

from tests.bad_input.harness import Case, Files

PAPER = {"source": ["We learn."], "target": ["Learning."]}
NEWS = {"article": "Rain fell.", "highlights": "Rain ."}
PROBLEM = {"problem": "Sum?", "solution": "$\\boxed{2}$", "level": "Level 1", "type": "Algebra"}
DOLLY = [{"instruction": f"Name {n}.", "context": "", "response": "x", "category": "open_qa"} for n in range(3)]


def jsonl(*rows: object) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def of(task: str, typed: str, *says: str, more: tuple[str, ...] = (), files: Files | None = None) -> Case:
    """A case of a task with the folder ``data``, without a chat template."""
    plain = f"task={task} task.data_dir=data task.chat_template=false max_completion_length=8"
    return Case(typed=f"{plain} {typed}", says=says, more=more, files=files or {})


def papers(train: str, dev: str) -> Files:
    return {"data/train.jsonl": train, "data/dev.jsonl": dev}


def news(train: str, validation: str) -> Files:
    return {"data/train.jsonl": train, "data/validation.jsonl": validation}


def maths(train: str, test: str) -> Files:
    return {"data/train.jsonl": train, "data/test.jsonl": test}


OTHER_PAPER = {"source": ["We sort."], "target": ["Sorting."]}
OTHER_NEWS = {"article": "Snow fell.", "highlights": "Snow ."}
OTHER_PROBLEM = PROBLEM | {"problem": "Product?"}
DOLLY_FILE = {"data/databricks-dolly-15k.jsonl": jsonl(*DOLLY)}
GYM = "task=reasoning_gym task.chat_template=false max_completion_length=8"

TASKS = [
    of("scitldr", "", "data/train.jsonl: No such file", "type task.data_dir=FOLDER with train.jsonl and dev.jsonl"),
    of("scitldr", "task.eval_split=dev", "task.eval_split=dev", "validation", "test"),
    of("scitldr", "task.subset=abstract", "task.subset=abstract", "Abstract", "FullText"),
    of("scitldr", "task.cut=left", "task.cut=left", "end", "start", "none"),
    of("scitldr", "task.max_prompt_length=0", "task.max_prompt_length=0", "type task.max_prompt_length=1024"),
    of(
        "scitldr", "reward=check task.held_out=1", "task=scitldr has no right answers", "type reward=rouge",
        files=papers(jsonl(PAPER), jsonl(OTHER_PAPER)),
    ),
    of(
        "scitldr", "task.held_out=2", "task.held_out=2: 1 to 1 can be", "type task.held_out=1",
        files=papers(jsonl(PAPER), jsonl(OTHER_PAPER, PAPER)),
    ),
    of(
        "scitldr", "task.held_out=1 task.max_prompt_length=100000", "task.max_prompt_length=100000",
        "more than the model's context", files=papers(jsonl(PAPER), jsonl(OTHER_PAPER)),
    ),
    of(
        "scitldr", "task.held_out=1 task.max_prompt_length=2", "all prompts have more than 2 tokens",
        "type task.max_prompt_length=NUMBER", files=papers(jsonl(PAPER), jsonl(OTHER_PAPER)),
    ),
    of(
        "scitldr", "", 'data/dev.jsonl, line 1: "source" and "target" are needed as lists of sentences',
        "the row has a", files=papers(jsonl(PAPER), jsonl({"a": 1})),
    ),
    Case(
        typed="task=scitldr task.chat_template=false max_completion_length=8",
        says=("the hub is out of reach", "type task.data_dir=FOLDER with train.jsonl and dev.jsonl"),
    ),
    of("cnn_dailymail", "", "data/train.jsonl: No such file", "FOLDER with train.jsonl and validation.jsonl"),
    of("cnn_dailymail", "task.held_out=0", "task.held_out=0", "type task.held_out=200"),
    of(
        "cnn_dailymail", "task.max_prompt_length=32",
        'data/train.jsonl, line 2: "article" and "highlights" are needed as text',
        files=news(jsonl(NEWS, {"article": None}), jsonl(OTHER_NEWS)),
    ),
    of(
        "cnn_dailymail", "reward=check task.held_out=1 task.max_prompt_length=32", "task=cnn_dailymail has no right",
        "type reward=rouge", files=news(jsonl(NEWS), jsonl(OTHER_NEWS)),
    ),
    of("dolly", "", "data/databricks-dolly-15k.jsonl: No such file", "type task.data_dir=FOLDER with"),
    of(
        "dolly", "task.held_out=1 task.max_prompt_length=32", "task=dolly has no right answers",
        "type reward=rouge, ", files=DOLLY_FILE,
    ),
    of(
        "dolly", "task.held_out=3", "task.held_out=3: of 3 prompts some must be left", "type task.held_out=2",
        files=DOLLY_FILE,
    ),
    of("dolly", "task.categories=[poems]", "task.categories", "brainstorming", "creative_writing"),
    of("dolly", "task.categories=[]", "task.categories", "type task.categories="),
    of(
        "dolly", "task.categories=[closed_qa]", "no row is of the category closed_qa; there are open_qa",
        "type task.categories=[open_qa]", files=DOLLY_FILE,
    ),
    of("stories", "task.prompts=poems", "task.prompts=poems", "concepts", "writing_prompts"),
    of("stories", "", "data/commongen.train.src_alpha.txt: No such file", "type task.data_dir=FOLDER"),
    of("stories", "task.prompts=writing_prompts", "data/train.jsonl: No such file", "type task.data_dir=FOLDER"),
    of(
        "stories", "task.prompts=writing_prompts", "train.wp_source, line 2: it and train.wp_target do not match",
        files={"data/train.wp_source": "[ WP ] a\n[ WP ] b\n", "data/train.wp_target": "A story .\n"},
    ),
    of(
        "stories", "task.prompts=writing_prompts task.held_out=1", "task.prompts=writing_prompts has no rule",
        "type reward=reward_model",
        files=news(jsonl({"prompt": "a", "story": "b"}), jsonl({"prompt": "c", "story": "d"})),
    ),
    of("math", "", "data/train.jsonl: No such file", "type task.data_dir=FOLDER with train.jsonl and test.jsonl"),
    of("math", "task.levels=[6]", "task.levels", "type task.levels="),
    of("math", "", "task.subjects", "Algebra", "Precalculus", more=("task.subjects=[Calculus]",)),
    of("math", "task.eval_set=dev", "task.eval_set=dev", "test", "MATH-500"),
    of(
        "math", "task.held_out=1 task.levels=[5]", "task.levels: no problem is of 5; there are 1",
        files=maths(jsonl(PROBLEM), jsonl(OTHER_PROBLEM)),
    ),
    of(
        "math", "task.held_out=1", "no row has an answer", "type task.data_dir=FOLDER with train.jsonl and test.jsonl",
        files=maths(jsonl(PROBLEM | {"solution": "Two."}), jsonl(OTHER_PROBLEM)),
    ),
    of(
        "math", "task.held_out=1", "train/algebra/1.json: not JSON", "mend the file, or type task.data_dir=FOLDER",
        files={"data/train/algebra/1.json": "{", "data/test/algebra/1.json": json.dumps(OTHER_PROBLEM)},
    ),
    Case(typed=f"{GYM} task.generator=leg_count", says=("no such generator", "type task.generator=leg_counting")),
    Case(typed=f"{GYM} task.settings.legs=3", says=("has no such setting", "type task.settings.min_animals")),
    Case(typed=f"{GYM} task.settings.min_animals=0", says=("leg_counting refuses min_animals=0", "type other values")),
    Case(
        typed=f"{GYM} task.generator=puzzle24",
        says=("the score of puzzle24 runs the model's answer as Python code", "type task.evaluate_answers=true"),
    ),
    Case(typed=f"{GYM} task.timeout=0", says=("task.timeout=0", "type task.timeout=30.0")),
    Case(typed=f"{GYM} task.held_out=20000", says=("task.held_out=20000", "type task.held_out=200")),
    Case(typed=f"{GYM} task.settings=3", says=("task.settings=3", "type task.settings={min_animals: 2}")),
]  # fmt: skip
