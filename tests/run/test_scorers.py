import pytest
import torch

from dqo.errors import ConfigError
from dqo.records import Prompt
from dqo.run.scorers import scorers_of
from tests.helpers.classifiers import save_last_word_classifier
from tests.helpers.composing import composed
from tests.helpers.judge_server import judge_server, says

CPU = torch.device("cpu")
PROMPT = Prompt(position=0, tokens=(1,), content="a", columns={})


def test_by_default_there_are_none_and_what_to_type_for_them_is_said(tmp_path):
    scorers = scorers_of(composed().eval, CPU, tmp_path)
    assert (scorers.nli, scorers.judge, scorers.novelty.partition) == (None, None, "words and embeddings")
    assert scorers.missing == {
        "nli_disagreement": "eval.nli=FOLDER",
        "judge_diversity": "eval.judge.base_url=URL eval.judge.model=NAME",
        "noveltybench": "eval.novelty.classifier=FOLDER eval.novelty.reward_model=FOLDER",
    }
    scorers.release()


def test_each_key_gives_its_scorer(tmp_path, caplog):
    nli = save_last_word_classifier(tmp_path / "nli", {"no": [1.0, 0.0]}, ["contradiction", "entailment"])
    same = save_last_word_classifier(tmp_path / "same", {}, ["different", "same"])
    reward = save_last_word_classifier(tmp_path / "reward", {"no": [9.0]}, ["score"])
    with judge_server(lambda number, request: says("Score: 4")) as server:
        keys = (
            f"eval.nli={nli}", f"eval.novelty.classifier={same}", f"eval.novelty.reward_model={reward}",
            f"eval.judge.base_url={server.url}", "eval.judge.model=m", "eval.judge.wordings=2",
        )  # fmt: skip
        scorers = scorers_of(composed(*keys).eval, CPU, tmp_path)
        assert scorers.missing == {}
        assert scorers.nli and scorers.nli(["no", "a no"]) == 1.0
        assert scorers.judge and scorers.judge(PROMPT, ["a", "b"]).answered == 2
        score = scorers.novelty(PROMPT, ["no", "a no"])
        assert (score.distinct_k, score.utility_k, score.partition) == (1.0, pytest.approx(10 / 1.8), "classifier")
        caplog.set_level("INFO")
        scorers.release()
    assert [line for line in caplog.messages if "eval.judge: 2 questions asked" in line]
    assert scorers.nli._classifier._model is None
    assert [*(tmp_path / "judge").iterdir()]


def test_a_folder_that_is_no_classifier_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"^eval.nli=.* has no config.json; type eval.nli=FOLDER"):
        scorers_of(composed(f"eval.nli={tmp_path}").eval, CPU, tmp_path)
