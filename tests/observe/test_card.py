import re

import yaml
from huggingface_hub import ModelCard

from dqo.observe.card import model_card
from tests.helpers.steps import HOSTILE, make_evaluation


def make_card(text: str = "Paris", hub_name: str | None = "HuggingFaceTB/SmolLM2-135M-Instruct") -> str:
    return model_card(
        name="cities-dqo", base_model="SmolLM2-135M-Instruct", task="cities", alpha=1.0, beta=0.0, k=8, steps=60,
        learning_rate=1e-5, command="dqo-train alpha=1.0", before=make_evaluation(0.25, text=text),
        after=make_evaluation(0.75, text=text), hub_name=hub_name, license="apache-2.0",
    )  # fmt: skip


def test_the_hub_reads_the_front_matter():
    card = ModelCard(make_card())
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "text-generation",
        "apache-2.0",
    )
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "dqo" in data["tags"]
    assert "base_model" not in yaml.safe_load(make_card(hub_name=None).split("---")[1])


def test_the_card_shows_settings_metrics_and_command():
    card = make_card()
    assert "| cities | 1 | 0 | 8 | 60 | 1e-05 |" in card
    assert "| `pass@1` | 0.250 | 0.750 |" in card
    assert "dqo-train alpha=1.0" in card


def test_model_output_stays_inside_its_code_fence():
    card = make_card("```\n# Owned <script>alert(1)</script> " + HOSTILE)
    ((fence, body),) = re.findall(r"(?ms)^(`{4,})text\n(.*?)\n\1$", card)
    assert len(fence) == 4  # one more than the answer has
    assert r"4 × ```↵# Owned <script>alert(1)</script> Paris\x1b[2J↵" in body
    assert card.count("Owned") == body.count("Owned") == 1
    assert "\x1b" not in card and "\u202e" not in card
