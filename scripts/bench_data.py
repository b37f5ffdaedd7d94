"""Memory and time that a file of prompts needs, in memory and streamed from the disk: the table of docs/performance.md.

    python scripts/bench_data.py [--count 1000000] [--streaming false] [--template]
    python scripts/bench_data.py --articles --count 287113 [--streaming false]

One process measures one setting. Prompts have about 500 bytes. The file is written to a temporary folder (TMPDIR), and
so is dqo's cache, which keeps the index. ``--template``: with a chat template. ``--articles``: task=cnn_dailymail on
made-up articles of 4,400 characters; ``--streaming`` is then whether the training split counts as large.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dqo.task.cnn_dailymail import CnnDailyMail
from dqo.task.jsonl import Jsonl
from dqo.task.reading import sources
from dqo.task.reading.documents import Cutting
from dqo.task.reading.fields import Fields
from dqo.task.reading.own import Choice
from dqo.task.reading.rows import RowTask
from dqo.task.reading.settings import MessageRendering

CONTEXT = 1 << 20  # tokens: no prompt is too long
DRAWN = 1000  # prompts
TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}<assistant> "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--streaming", choices=("true", "false"), default="true")
    parser.add_argument("--template", action="store_true")
    parser.add_argument("--articles", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dqo-data-") as folder:
        os.environ["DQO_CACHE"] = f"{folder}/cache"
        path = (write_articles if arguments.articles else write)(Path(folder), arguments.count)
        measure(path, arguments.count, arguments.streaming == "true", arguments.template, arguments.articles)


def write(folder: Path, count: int) -> Path:
    """A file of JSON lines."""
    path = folder / "prompts.jsonl"
    texts = [" ".join(f"word{(i * 7 + j * j) % 1000}" for j in range(60)) for i in range(1000)]
    with path.open("w") as file:
        for i in range(count):
            file.write(f'{{"prompt": "{i} {texts[i % 1000]}", "answer": "{i}", "level": {i % 5}}}\n')
    return path


def write_articles(folder: Path, count: int) -> Path:
    """The splits of CNN/DailyMail as JSON lines, 13,368 articles for validation. Returns the training split's file."""
    texts = [" ".join(f"word{(i * 7 + j * j) % 1000}" for j in range(560)) + " “so”." for i in range(1000)]
    for name, first, end in (("train", 0, count), ("validation", count, count + 13_368)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(first, end):
                line = {
                    "article": f"{i} {texts[i % 1000]}",
                    "highlights": f"{i} {texts[i % 1000][:290]} .",
                    "id": str(i),
                }
                file.write(json.dumps(line) + "\n")
    return folder / "train.jsonl"


def task(path: Path, *, streaming: bool, template: bool, articles: bool) -> RowTask:
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    rendering = MessageRendering(
        seed=0, max_completion_length=10, chat_template=template, chat_template_kwargs=None, date=None,
        merge_messages=False,
    )  # fmt: skip
    if articles:
        sources.LARGE = 0 if streaming else path.stat().st_size
        return CnnDailyMail(
            tokenizer, CONTEXT, rendering=rendering, cutting=Cutting(max_prompt_length=512, cut="end"),
            data_dir=str(path.parent), eval_split="validation", held_out=200,
        )  # fmt: skip
    return Jsonl(
        tokenizer, CONTEXT, rendering=rendering,
        fields=Fields(
            prompt_column="prompt", template=None, system_prompt=None, columns=None, answer_column=None,
            completion_column=None, tools_column=None,
        ),
        choice=Choice(held_out=64, skip_long=False, streaming=streaming), path=str(path), eval_path=None, format=None,
    )  # fmt: skip


def measure(path: Path, count: int, streaming: bool, template: bool, articles: bool) -> None:
    """Print one line of the table."""

    def made_task() -> RowTask:
        return task(path, streaming=streaming, template=template, articles=articles)

    before, own = peak(), anonymous()
    seconds, made = timed(made_task)
    drawing, _ = timed(lambda: made.draw(count // 2, DRAWN))
    growth, kept = peak() - before, anonymous() - own
    again, _ = timed(made_task)
    cache = sum(file.stat().st_size for file in Path(os.environ["DQO_CACHE"]).rglob("*") if file.is_file())
    print(f"{count:,} prompts, {path.stat().st_size / 1e6:,.0f} MB, {streaming=}, {template=}")
    print(f"CPU time: the first start {seconds:.1f} s, the next {again:.1f} s, a prompt {1e6 * drawing / DRAWN:.0f} µs")
    print(
        f"memory: at most {growth / 1e6:.0f} MB more than before, {kept / 1e6:.0f} MB of the process's own at the end"
    )
    print(f"index on the disk: {cache / 1e6:.0f} MB")


def timed(call):
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def peak() -> int:
    """Bytes: the largest resident memory of this process so far, mapped files included."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def anonymous() -> int:
    """Bytes of this process's memory that are no files."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
