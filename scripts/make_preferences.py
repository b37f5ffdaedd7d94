"""Preference pairs from SciTLDR, to try dqo-rm without data of your own. They are made, not asked of people.

    python scripts/make_preferences.py SCITLDR pairs.jsonl     # the folder with train.jsonl

Each paper's reference summary is preferred to four answers that are worse in a way a policy may find: the summary of
another paper; half of it, cut within the sentence; a sentence of the abstract drawn at random; the summary said twice.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

from dqo.task.scitldr import AFTER, BEFORE


def main() -> None:
    """Write the pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--papers", type=int, help="the first ones alone")
    options = parser.parse_args()
    lines = (options.folder / "train.jsonl").read_text("utf-8").splitlines()
    papers = [json.loads(line) for line in lines[: options.papers]]
    with options.out.open("w", encoding="utf-8") as file:
        for pair in pairs(papers, random.Random(options.seed)):
            file.write(f"{json.dumps(pair, ensure_ascii=False)}\n")


def pairs(papers: list[dict], generator: random.Random) -> Iterator[dict[str, str]]:
    for n, paper in enumerate(papers):
        said = " ".join(generator.choice(paper["target"]).split())
        words = said.split()
        other = papers[(n + 1 + generator.randrange(len(papers) - 1)) % len(papers)]
        prompt = f"{BEFORE}{' '.join(' '.join(paper['source']).split())}{AFTER}"
        for worse in (
            " ".join(other["target"][0].split()),
            " ".join(words[: max(1, len(words) // 2)]),
            " ".join(generator.choice(paper["source"]).split()),
            f"{said} {said}",
        ):
            yield {"prompt": prompt, "chosen": said, "rejected": worse}


if __name__ == "__main__":
    main()
