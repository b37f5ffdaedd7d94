"""What each credit pays for answers that differ without being better, with MiniLM's embeddings.

    python scripts/reproduce_hacking.py            # half a minute on one core

Groups of eight: one right answer three times, another twice, two more once each, and one that tries to be paid for
nothing. The first columns are what honest answers earn where the eighth is one more copy of the first.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from reproduce_encoder import minilm
from reproduce_tables import row

from dqo.config import conf_dir
from dqo.records import Prompt, Rewards, Rollouts
from dqo.references import References
from dqo.run.build import make

PROMPT = Prompt(position=0, tokens=(1,), content="How can I use less energy at home?", columns={})
COMMON, LONE = "Turn the heating down by one degree.", "Share a washing machine with the neighbours."
HONEST = (
    COMMON, COMMON, COMMON, "Insulate the attic and seal the windows.", "Insulate the attic and seal the windows.",
    "Switch all lamps to LEDs.", LONE,
)  # fmt: skip
FILLER = " It is a good idea, and it is a good idea for many reasons, all of which are good."
JUDGED_RIGHT = {  # by a checker that looks for the advice in the text
    "suffix": f"{COMMON} 17",
    "other language": "Drehen Sie die Heizung um ein Grad herunter.",
    "long": COMMON + 8 * FILLER,
}
JUDGED_WRONG = {
    "wrong": "The Pacific is the largest of the oceans.",
    "gibberish": "zlorp qwx vunti 88 krr; asdf mip mip",
    "emoji": "🦊🎉🎉 🧿🪐",
    "empty": "",
}
FOUR = ("The answer is 48.", "The answer is 47.", JUDGED_WRONG["gibberish"], "")
CREDITS: dict[str, tuple[str, dict[str, Any]]] = {  # name: option of conf/credit, keys
    "dpp, cosine": ("dpp", {}),
    "dpp, rbf .3": ("dpp", {"kernel": "rbf", "sigma": 0.3}),
    "distance": ("distance", {}),
    "setpo": ("setpo", {}),
    "nearest": ("nearest", {}),
    "elliptic": ("elliptic", {}),
    "elliptic, leverage": ("elliptic", {"bonus": "leverage"}),
    "vendi": ("vendi", {}),
    "dra": ("dra", {}),
    "mmr": ("mmr", {}),
    "gapo": ("gapo", {}),
    "partition, key": ("partition", {"by": "key"}),
    "partition, embedding": ("partition", {"by": "embedding"}),
    "unlikeliness": ("unlikeliness", {}),
    "ngram": ("ngram", {}),
    "constant": ("constant", {}),
}
UNLIKELY = {COMMON: -5.0, LONE: -20.0}  # nats of a completion, for unlikeliness; of a hack: -40
NATS, HACK_NATS = -10.0, -40.0


class Answers:
    """Stands in for a task: an answer is the same as another one if its text is."""

    def key(self, prompt: Prompt, text: str) -> str:
        """The text."""
        return text


def main() -> None:
    """Print the tables, without a gate."""
    encoder = minilm()
    available = {"references": References(), "task": Answers(), "embed": encoder, "tokenizer": None}
    credits = {name: built(option, {**keys, "gate": "none"}, available) for name, (option, keys) in CREDITS.items()}
    honest = ["one of four copies", "lone answer"]
    headings = [*honest, *JUDGED_RIGHT, *(f"{name} (r = 0)" for name in JUDGED_WRONG), "wrong above right from alpha"]
    lines = [row(["", *headings]), "|---" * (len(headings) + 1) + "|"]
    for name, credit in credits.items():
        copy, lone = (paid(credit, encoder, (*HONEST, COMMON))[i] for i in (0, -2))
        hacked = [paid(credit, encoder, (*HONEST, text))[-1] for text in (JUDGED_RIGHT | JUDGED_WRONG).values()]
        more = max(hacked[len(JUDGED_RIGHT) :]) - copy  # of a wrong answer than of a right one that others gave, too
        outranks = f"{1 / more:.2f}" if more > 0 else "never"
        lines.append(row([name, *map(number, (copy, lone, *hacked)), outranks]))
    print("\n".join(lines), end="\n\n", flush=True)
    print(row(["", *(f"`{text}`" for text in FOUR)]) + "\n" + "|---" * 5 + "|")
    for name, credit in credits.items():
        print(row([name, *map(number, paid(credit, encoder, FOUR))]))


def number(value: float) -> str:
    """Three decimals; -0.0 is 0."""
    return f"{round(value, 3) + 0.0:.3f}"


def built(option: str, keys: dict[str, Any], available: dict[str, Any]) -> Any:
    """A credit with the values of its YAML file and these."""
    node = OmegaConf.merge(OmegaConf.load(Path(conf_dir(), "credit", f"{option}.yaml")), keys)
    settings = OmegaConf.to_container(node)
    assert isinstance(settings, dict)
    return make(settings, "credit", available)  # type: ignore[arg-type]


def paid(credit: Any, encoder: Any, texts: Sequence[str]) -> list[float]:
    """What each completion of a group earns. Right, with reward 1, is what is not among the wrong ones."""
    rollouts = grouped(texts)
    wrong = {*JUDGED_WRONG.values(), *FOUR[1:]}
    correct_PK = torch.tensor([[text not in wrong for text in texts]])
    rewards = Rewards(
        total_PK=correct_PK.float(), parts={}, correct_PK=correct_PK, valid_PK=torch.ones_like(correct_PK)
    )
    return credit.assign(rollouts, rewards, encoder.encode(rollouts) if credit.uses_embeddings else None)[0].tolist()


def grouped(texts: Sequence[str]) -> Rollouts:
    """A group of completions of one sampled token each: the text's own, with the completion's log-probability."""
    rows, distinct = len(texts), list(dict.fromkeys(texts))
    hacks = {*JUDGED_RIGHT.values(), *JUDGED_WRONG.values()}
    tokens_BT = torch.tensor([[1, 2 + distinct.index(text)] for text in texts])
    nats = [HACK_NATS if text in hacks else UNLIKELY.get(text, NATS) for text in texts]
    return Rollouts(
        prompts=(PROMPT,), k=rows, texts=tuple(texts), tokens_BT=tokens_BT,
        sampled_BT=torch.tensor([[False, True]] * rows), logprobs_BT=torch.tensor([[0.0, each] for each in nats]),
        lengths_B=torch.full((rows,), 2), finished_B=torch.ones(rows, dtype=torch.bool),
        versions_B=torch.zeros(rows, dtype=torch.long),
    )  # fmt: skip


if __name__ == "__main__":
    main()
