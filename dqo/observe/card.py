"""The model card of a trained policy: README.md in its folder, with the front matter that the hub reads."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from dqo.evaluation import Evaluation
from dqo.observe.comparison import compared, difference
from dqo.observe.sampling_code import sampling_code
from dqo.observe.visible import shorten, visible, visible_lines
from dqo.records import Answers

SHOWN = 10  # answers in the example
METRICS = (
    "reward", "pass@1", "pass@10", "distinct_correct", "cosine_distance", "logdet", "vendi", "distinct_1", "distinct_2",
    "distinct_4",
)  # fmt: skip


def model_card(
    *,
    name: str,
    base_model: str,
    task: str,
    alpha: float,
    beta: float,
    k: int,
    steps: int,
    learning_rate: float,
    command: str,
    before: Evaluation,
    after: Evaluation,
    credit: str | None = None,
    update: str | None = None,
    temperature: float = 1.0,
    rendered: str | None = None,
    hub_name: str | None = None,
    **license: Any,
) -> str:
    """The model card as Markdown. ``command``: what the user typed. ``credit``: what earned diversity credit, in words
    (its ``description``); None: nothing did. ``update``: advantage and loss, in words. ``rendered``: the first prompt
    with the chat template's words (``sampling_code``). ``hub_name``, ``license``, ``license_name`` and ``license_link``
    of the base model, if known.

    Answers are model output: they stand in a code fence that they cannot close, with control characters escaped.
    """
    reason = difference(before, n=after.n, prompts=after.prompts)
    code = sampling_code(".", after.answers[0].prompt, rendered, count=8)
    return f"""{_front_matter(hub_name, license)}
# {visible(name)}

`{visible(base_model)}`, post-trained {_purpose(credit, alpha)}{f" Update: {visible(update)}." if update else ""}

| task | α (diversity) | β (KL) | k (group) | steps | learning rate |
|---|---|---|---|---|---|
| {task} | {alpha:g} | {beta:g} | {k} | {steps} | {learning_rate:g} |

{_fenced("sh", visible_lines(command))}

## Held-out prompts, before and after

Means over {len(after.answers)} prompts × {after.n} completions{f"; {reason}" if reason else ""}.

| metric | before | after |
|---|---|---|
{_rows(before, after)}

## Answers to one prompt

{_example(after.answers[0])}

## Use

{_fenced("python", visible_lines(chr(10).join(code)))}

It samples as it was trained and evaluated: generation_config.json has temperature {temperature:g}, the filters and the
longest completion of the run. A lower temperature loses diversity. Trained by reinforcement learning on its task alone:
abilities that the reward does not measure may have become worse.
"""


def _purpose(credit: str | None, alpha: float) -> str:
    """The rest of the sentence about what the model was trained for, true of every method of docs/credits.md."""
    toolkit = "dqo ([Diversity Quality Optimization](https://arxiv.org/abs/2509.04784) and other methods)"
    if credit is None or not alpha:
        return f"with {toolkit}. No completion is paid for being different: it earns the reward of its task alone."
    return (
        f"with {toolkit} for answers that are good and different from one another. Each completion is paid for its "
        f"reward and, with weight α, for {visible(credit)}."
    )


def _front_matter(hub_name: str | None, license: Mapping[str, Any]) -> str:
    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", base_model=hub_name,
        tags=["dqo", "diversity", "reinforcement-learning"], **license,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def _rows(before: Evaluation, after: Evaluation) -> str:
    """The lines of the table of metrics."""
    first = compared(before, after)
    shown = [key for key in METRICS if key in after.metrics]
    return "\n".join(f"| `{key}` | {_format(first, key)} | {_format(after.metrics, key)} |" for key in shown)


def _example(answers: Answers) -> str:
    """The prompt and its most frequent answers with their counts."""
    counts = Counter(shorten(visible(text.strip()), 300) for text in answers.texts).most_common(SHOWN)
    block = "\n".join([visible(answers.prompt.text), "", *(f"{count} × {text}" for text, count in counts)])
    return _fenced("text", block)


def _fenced(language: str, block: str) -> str:
    """The block in a code fence that it cannot close."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", block)), default=2))
    return f"{fence}{language}\n{block}\n{fence}"


def _format(metrics: Mapping[str, float], key: str) -> str:
    value = metrics.get(key, math.nan)
    return "–" if math.isnan(value) else f"{value:.3f}"
