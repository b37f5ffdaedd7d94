import math

import pytest
import torch

from dqo.errors import ConfigError
from dqo.scorers import nli as module
from dqo.scorers.nli import NliDisagreement
from tests.helpers.classifiers import save_last_word_classifier

CPU = torch.device("cpu")
LABELS = ["CONTRADICTION", "Neutral", "entailment"]
LOGITS = {"no": [2.0, 1.0, 0.0], "so": [0.0, 0.5, 0.1], "yes": [0.0, 1.0, 5.0], "a": [0.0, -1.0, -1.0]}


def scorer(folder, labels=LABELS, logits=LOGITS) -> NliDisagreement:
    path = str(save_last_word_classifier(folder, logits, labels))
    return NliDisagreement(path, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("texts", "score"),  # the label of (first, second) is that of the second's last word: no +1, so 0, yes -1, a +1
    [
        (["no", "no"], 1.0),
        (["b yes", "c yes", "d yes"], -1.0),
        (["so", "b so"], 0.0),
        (["no", "so", "b no"], 4 / 6),
        (["no", "yes", "so", "so"], 0.0),
        (["a", "yes", "b yes"], (2 - 4) / 6),
        (["no"], math.nan),
        ([], math.nan),
    ],
)
def test_mean_of_plus_one_for_contradiction_and_minus_one_for_entailment(tmp_path, texts, score):
    assert scorer(tmp_path)(texts) == pytest.approx(score, nan_ok=True)


def test_labels_are_found_by_their_names_in_any_order(tmp_path):
    logits = {word: [values[2], values[0], values[1]] for word, values in LOGITS.items()}
    assert scorer(tmp_path, ["Entailment", "contradictory", "NEUTRAL"], logits)(["no", "so", "b no"]) == 4 / 6


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1", "LABEL_2"], ["entailment", "not_entailment"]])
def test_a_classifier_of_something_else_is_refused_with_its_labels(tmp_path, labels):
    with pytest.raises(ConfigError, match=rf"^eval.nli=.*its labels .* are {', '.join(labels)}; one has to begin"):
        scorer(tmp_path, labels, {})


def test_equal_pairs_are_asked_once(tmp_path, monkeypatch):
    nli, asked = scorer(tmp_path), []
    forward = nli._classifier.pair_logits
    monkeypatch.setattr(nli._classifier, "pair_logits", lambda pairs: asked.append(len(pairs)) or forward(pairs))
    assert nli(["no"] * 9 + ["yes"]) == pytest.approx((9 * 8 + 9 - 9) / 90)
    assert asked == [3]  # (no, no), (no, yes), (yes, no)
    assert nli(["no", "yes", "so"]) == pytest.approx(0.0)
    assert asked == [3, 4]  # those with so


def test_what_is_remembered_is_bounded(tmp_path, monkeypatch):
    nli = scorer(tmp_path)
    monkeypatch.setattr(module, "REMEMBERED", 3)
    texts = [["a no", "b no"], ["c no", "d no"], ["no", "so"], ["a yes", "b yes"]]
    assert [nli(some) for some in texts] == [1.0, 1.0, 0.5, -1.0]
    assert len(nli._remembered) == 4
