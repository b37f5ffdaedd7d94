import math

import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from dqo.capabilities import EncodesTexts, Stateful
from dqo.embed.texts.normalization import Normalize
from dqo.embed.tfidf import Tfidf
from dqo.errors import ConfigError
from dqo.stages import Embed
from tests.factories import make_rollouts

TEXTS = ["Paris, the city of light", "Rome, the eternal city", "東京 is a city", "Paris, the city of light!"]


def stage(**changes) -> Tfidf:
    return Tfidf(**({"ngrams": [3, 5], "features": 2**16, "idf_file": None, "normalize_text": []} | changes))


def test_unit_length_in_the_shape_of_the_groups():
    made = stage(features=64)
    assert isinstance(made, Embed) and isinstance(made, EncodesTexts) and isinstance(made, Stateful)
    embeddings_PKD = made.encode(make_rollouts([*TEXTS, "", "Paris"], 3))
    assert (embeddings_PKD.shape, embeddings_PKD.dtype) == ((2, 3, 65), torch.float32)
    torch.testing.assert_close(embeddings_PKD.norm(dim=-1), torch.ones(2, 3))
    assert torch.equal(embeddings_PKD.flatten(0, 1), made.encode_texts([*TEXTS, "", "Paris"]))


def test_cosines_are_those_of_unhashed_idf_weights(tmp_path):
    """scikit-learn's own vectorizer with a vocabulary: at 65,536 axes hardly two n-grams share one. Counts are 1 here,
    where log(1 + count) and 1 + log(count) weigh alike."""
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(TEXTS) + "\n\n")
    peer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), lowercase=False).fit(TEXTS)
    texts = [text for text in TEXTS if _most_frequent(text) == 1]
    assert len(texts) >= 2
    expected_NN = torch.from_numpy((peer.transform(texts) @ peer.transform(texts).T).toarray()).float()
    rows_ND = stage(idf_file=str(documents)).encode_texts(texts)
    torch.testing.assert_close(rows_ND @ rows_ND.T, expected_NN, atol=0.02, rtol=0)


def _most_frequent(text: str) -> int:
    counted = CountVectorizer(analyzer="char_wb", ngram_range=(3, 5), lowercase=False).fit_transform([text])
    return counted.max()


def test_copies_are_1_strangers_are_0_and_empty_texts_are_equal():
    rows_ND = stage().encode_texts(["Paris", "Paris", "Oslo", "", " \n", "."])
    cosines = rows_ND @ rows_ND.T
    assert cosines[0, 1] == pytest.approx(1) and cosines[3, 4] == pytest.approx(1)
    assert cosines[0, 2].abs() < 0.05 and cosines[0, 3] == 0
    assert cosines[3, 5] < 0.5  # "." has n-grams with the spaces around it


def test_counts_grow_with_their_logarithm():
    rows_ND = stage(ngrams=[1, 1]).encode_texts(["a", "aaab"])  # with two spaces each
    space, a, b = math.log(3), math.log(4), math.log(2)
    own = (math.log(3) ** 2 + math.log(2) ** 2) ** 0.5
    cosine = (space * math.log(3) + a * math.log(2)) / (own * (space**2 + a**2 + b**2) ** 0.5)
    assert float(rows_ND[0] @ rows_ND[1]) == pytest.approx(cosine, abs=1e-6)


def test_differences_that_do_not_count():
    rows_ND = stage(normalize_text=[Normalize.CASE, Normalize.MARKUP]).encode_texts(["**Paris**", "paris"])
    assert torch.equal(rows_ND[0], rows_ND[1])


def test_resume_refuses_other_documents(tmp_path):
    documents = tmp_path / "documents.txt"
    documents.write_text("one\ntwo")
    saved = stage(idf_file=str(documents)).state_dict()
    stage(idf_file=str(documents)).load_state_dict(saved)
    documents.write_text("one\nthree")
    with pytest.raises(ConfigError, match=r"resume: embed.idf_file has other n-grams than at the checkpoint"):
        stage(idf_file=str(documents)).load_state_dict(saved)


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"embed.ngrams=\[5,3\]: .* type embed.ngrams=\[3,5\]"):
        stage(ngrams=[5, 3])
    with pytest.raises(ConfigError, match=r"embed.idf_file=.*missing.txt: .* type embed.idf_file=FILE, or null"):
        stage(idf_file=str(tmp_path / "missing.txt"))
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(ConfigError, match=r"has no text; type embed.idf_file=null"):
        stage(idf_file=str(empty))
