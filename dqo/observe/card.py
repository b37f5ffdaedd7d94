"""The model card of a trained policy: README.md in its folder, with the front matter that the hub reads."""

import math
import re
from collections import Counter

from huggingface_hub import ModelCardData

from dqo.evaluation import Answers, Evaluation
from dqo.observe.text import prompt_text
from dqo.observe.visible import shorten, visible, visible_lines

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
    hub_name: str | None = None,
    license: str | None = None,
) -> str:
    """The model card as Markdown. ``command``: what the user typed; ``hub_name`` and ``license`` of the base
    model, if known.

    Answers are model output: they stand in a code fence that they cannot close, with control characters escaped.
    """
    rows = [f"| `{key}` | {_format(before, key)} | {_format(after, key)} |" for key in METRICS if key in after.metrics]
    return f"""{_front_matter(hub_name, license)}
# {visible(name)}

`{visible(base_model)}`, post-trained with [Diversity Quality Optimization](https://arxiv.org/abs/2509.04784) for
answers that are good and different from one another: the reward of each completion plus α times what it adds to the
log-determinant of its group's embeddings.

| task | α (diversity) | β (KL) | k (group) | steps | learning rate |
|---|---|---|---|---|---|
| {task} | {alpha:g} | {beta:g} | {k} | {steps} | {learning_rate:g} |

{_fenced("sh", visible_lines(command))}

## Held-out prompts, before and after

Means over {len(after.answers)} prompts × {after.n} completions.

| metric | before | after |
|---|---|---|
{chr(10).join(rows)}

## Answers to one prompt

{_example(after.answers[0])}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
```

Trained by reinforcement learning on the reward of its task alone: abilities that this reward does not measure may have
become worse. Sample at temperature 1; a lower temperature loses diversity.
"""


def _front_matter(hub_name: str | None, license: str | None) -> str:
    data = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", base_model=hub_name, license=license,
        tags=["dqo", "diversity", "reinforcement-learning"],
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def _example(answers: Answers) -> str:
    """The prompt and its most frequent answers with their counts."""
    counts = Counter(shorten(visible(text.strip()), 300) for text in answers.texts).most_common(SHOWN)
    block = "\n".join([visible(prompt_text(answers.prompt)), "", *(f"{count} × {text}" for text, count in counts)])
    return _fenced("text", block)


def _fenced(language: str, block: str) -> str:
    """The block in a code fence that it cannot close."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", block)), default=2))
    return f"{fence}{language}\n{block}\n{fence}"


def _format(evaluation: Evaluation, key: str) -> str:
    value = evaluation.metrics.get(key, math.nan)
    return "–" if math.isnan(value) else f"{value:.3f}"
