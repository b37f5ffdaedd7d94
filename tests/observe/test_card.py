import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from dqo.evaluation import Evaluation
from dqo.observe.card import model_card
from tests.helpers.steps import HOSTILE, make_evaluation


def make_card(
    text: str = "Paris", hub_name: str | None = "HuggingFaceTB/SmolLM2-135M-Instruct", after: Evaluation | None = None,
    **changes,
) -> str:  # fmt: skip
    given = {"alpha": 1.0, "license": "apache-2.0", **changes}
    return model_card(
        name="cities-dqo", base_model="SmolLM2-135M-Instruct", task="cities", beta=0.0, k=8, steps=60,
        learning_rate=1e-5, command="dqo-train alpha=1.0", before=make_evaluation(0.25, text=text),
        after=after or make_evaluation(0.75, text=text), hub_name=hub_name, **given,
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


def test_a_licence_with_a_name_of_its_own_is_carried():
    """As Llama's are: "license: other" alone would say nothing."""
    data = ModelCard(make_card(license="other", license_name="llama3", license_link="https://a.b/LICENSE")).data
    assert (data.license, data.license_name, data.license_link) == ("other", "llama3", "https://a.b/LICENSE")


@pytest.mark.parametrize(
    ("credit", "alpha", "says"),
    [
        (
            "the mean cosine distance of its embedding to the others",
            1.0,
            "for the mean cosine distance of its embedding",
        ),
        (None, 1.0, "it earns the reward of its task alone"),
        ("what it adds to the log-determinant", 0.0, "it earns the reward of its task alone"),  # it was not paid
    ],
)
def test_the_card_speaks_of_the_credit_that_was_paid(credit, alpha, says):
    card = make_card(credit=credit, alpha=alpha)
    assert says in card
    assert ("log-determinant" in card) is ("different from one another" in card and "log-det" in str(credit))


def test_the_card_names_advantage_and_loss_and_does_not_call_every_method_dqo():
    card = make_card(credit="what it adds to the SetPO diversity", update="advantage Joint, loss Clip, term replay")
    assert "Update: advantage Joint, loss Clip, term replay." in card
    assert "and other methods) for answers that are good" in card


def test_the_card_samples_as_the_run_did():
    card = make_card(temperature=0.7, rendered="<|im_start|>user\nWhere?<|im_end|>\n")
    assert "generation_config.json has temperature 0.7" in card
    assert r"""tokenizer("<|im_start|>user\nWhere?<|im_end|>\n", add_special_tokens=False""" in card
    assert "Sample at temperature 1" not in card


def test_the_card_shows_settings_metrics_and_command():
    card = make_card()
    assert "| cities | 1 | 0 | 8 | 60 | 1e-05 |" in card
    assert "| `pass@1` | 0.250 | 0.750 |" in card
    assert "dqo-train alpha=1.0" in card


def test_the_card_has_no_number_before_that_cannot_be_compared():
    """After a resume with another eval.n."""
    card = make_card(after=replace(make_evaluation(0.75), n=32))
    assert "| `pass@1` | 0.250 | 0.750 |" in card and "| `logdet` | – | 0.750 |" in card
    assert "Means over 2 prompts × 32 completions; only metrics that do not depend on n are compared" in card


def test_model_output_stays_inside_its_code_fence():
    card = make_card("```\n# Owned <script>alert(1)</script> " + HOSTILE)
    ((fence, body),) = re.findall(r"(?ms)^(`{4,})text\n(.*?)\n\1$", card)
    assert len(fence) == 4  # one more than the answer has
    assert r"4 × ```↵# Owned <script>alert(1)</script> Paris\x1b[2J↵" in body
    assert card.count("Owned") == body.count("Owned") == 1
    assert "\x1b" not in card and "\u202e" not in card
