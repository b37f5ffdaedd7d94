import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from dqo.capabilities import Counting
from dqo.credit.clusters.comparison import Sameness
from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.partition import Form, Partition
from dqo.errors import ConfigError, StageError
from dqo.references import References
from dqo.stages import Credit
from tests.credit.builders import comparison
from tests.credit.groups import group, unit_vectors
from tests.helpers.judge_server import judge_server, says
from tests.helpers.toy_stages import CountingTask


def partition(compared=None, gate=Gate.none, threshold=None, **changes):
    keys = {"form": Form.multiply, "floor": 0.1, "subtract_min": False} | changes
    gating = Gating(gate=gate, threshold=threshold)
    return Partition(References(), CountingTask(), comparison=compared or comparison(), **keys, gating=gating)


def distinctness(texts, floor=0.1):
    """DARLING's code: how many of the others say something else, over the others; at least ``floor``."""
    if len(texts) < 2:
        return [floor] * len(texts)
    counts = Counter(texts)
    return [max((len(texts) - counts[text]) / (len(texts) - 1), floor) for text in texts]


def test_is_a_credit_that_needs_embeddings_only_to_compare_by_them():
    assert isinstance(partition(), Credit) and isinstance(partition(), Counting) and not partition().uses_embeddings
    assert partition(comparison(Sameness.embedding)).uses_embeddings


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("texts", ["a", "aa", "ab", "aabcd", "aaaaa", "abcde", "aabbc"])
def test_reward_and_credit_are_the_papers_score(texts, floor):
    total = [1.0, 0.5, 2.0, 0.0, 1.0][: len(texts)]
    rollouts, rewards = group([total])
    rollouts = replace(rollouts, texts=tuple(texts))
    distinct = distinctness(texts, floor)
    credits_PK = partition(floor=floor).assign(rollouts, rewards, None)
    assert credits_PK.dtype == torch.float32
    expected = [r * d for r, d in zip(total, distinct, strict=True)]
    assert (rewards.total_PK + credits_PK)[0].tolist() == pytest.approx(expected)
    added_PK = partition(form=Form.add, floor=floor).assign(rollouts, rewards, None)
    assert added_PK[0].tolist() == pytest.approx(distinct)


def test_only_those_that_pass_are_counted():
    """Two correct "a", one correct "b"; a wrong and an invalid "b"."""
    rollouts, rewards = group([[1.0, 1.0, 1.0, 0.0, 1.0]], [[True, True, True, True, False]])
    rollouts = replace(rollouts, texts=tuple("aabbb"))
    credits_PK = partition(gate=Gate.correct, form=Form.add).assign(rollouts, rewards, None)
    assert credits_PK[0].tolist() == pytest.approx([0.5, 0.5, 1.0, 0.0, 0.0])


def test_a_lone_correct_completion_keeps_the_floor_as_in_the_papers_code():
    credits_PK = partition(gate=Gate.correct).assign(*group([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), None)
    assert credits_PK[0].tolist() == pytest.approx([-0.9, 0.0, 0.0])
    assert credits_PK[1].tolist() == [0.0, 0.0, 0.0]


def test_clusters_of_embeddings_are_chains_of_similar_ones():
    """At 0, 30, 60 and 180 degrees: neighbors of 30 degrees have a cosine of .866."""
    angles_K = torch.tensor([0.0, 30.0, 60.0, 180.0]).deg2rad()
    embeddings_PKD = torch.stack([angles_K.cos(), angles_K.sin()], dim=-1)[None]
    by = comparison(Sameness.embedding, similarity=0.85)
    credits_PK = partition(by, form=Form.add).assign(*group([[0.0] * 4]), embeddings_PKD)
    assert credits_PK[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])
    rollouts, rewards = group([[0.0] * 4], [[True, False, True, True]])  # without the link of the chain
    credits_PK = partition(by, form=Form.add).assign(rollouts, rewards, embeddings_PKD)
    assert credits_PK[0].tolist() == pytest.approx([1.0, 0.0, 1.0, 1.0])


def test_copies_are_the_same_at_a_similarity_of_1_and_an_invalid_embedding_is_ignored():
    embeddings_PKD = unit_vectors(1, 1, 384).repeat(1, 4, 1)
    embeddings_PKD[0, 3] = math.nan
    rollouts, rewards = group([[1.0] * 4], [[True, True, True, False]])
    by = comparison(Sameness.embedding, similarity=1.0)
    assert partition(by).assign(rollouts, rewards, embeddings_PKD)[0].tolist() == pytest.approx([-0.9] * 3 + [0.0])


def test_a_negative_reward_is_multiplied_above_the_lowest_of_its_group():
    rollouts, rewards = group([[-1.0, 1.0, 0.5, -1.0]])
    rollouts = replace(rollouts, texts=tuple("aabb"))
    with pytest.raises(StageError, match=r"one is -1; type credit\.subtract_min=true, or credit\.form=add"):
        partition().assign(rollouts, rewards, None)
    credits_PK = partition(subtract_min=True).assign(rollouts, rewards, None)
    d = 2 / 3
    assert (rewards.total_PK + credits_PK + 1)[0].tolist() == pytest.approx([0.0, 2 * d, 1.5 * d, 0.0])
    passing = partition(gate=Gate.threshold, threshold=0.0).assign(rollouts, rewards, None)
    assert passing[0].tolist() == [0.0] * 4  # one a, one b


def test_a_lowest_reward_that_nothing_is_measured_from_is_refused():
    with pytest.raises(ConfigError, match=r"^credit\.subtract_min=true: credit\.form=add .* type credit\.subtract"):
        partition(form=Form.add, subtract_min=True)


def test_a_judge_says_what_is_the_same():
    with judge_server(lambda number, request: says("Same: no")) as server:
        by = comparison(Sameness.judge, base_url=server.url, model="m")
        credit = partition(by, form=Form.add)
        assert credit.assign(*group([[0.0] * 3]), None).tolist() == [[1.0] * 3]
    assert len(server.requests) == 3
    assert credit.counters() == {"judge_unread": 0}


def test_an_unread_judgement_is_counted():
    with judge_server(lambda number, request: says("Perhaps")) as server:
        credit = partition(comparison(Sameness.judge, base_url=server.url, model="m"))
        credits_PK = credit.assign(*group([[1.0] * 2]), None)
    assert credits_PK[0].tolist() == pytest.approx([-0.9] * 2)
    assert credit.counters() == {"judge_unread": 1}


@pytest.mark.parametrize("k", [4, 8])
def test_an_outlier_beside_copies(k):
    rollouts, rewards = group([[1.0] * k])
    rollouts = replace(rollouts, texts=("a",) * (k - 1) + ("b",))
    credits_K = partition().assign(rollouts, rewards, None)[0]
    assert credits_K[-1] - credits_K[0] == pytest.approx((k - 2) / (k - 1))


def test_two_completions_tie_if_d_is_added_and_their_rewards_differ_otherwise():
    rollouts, rewards = group([[1.0, 0.5]])
    for texts in (("a", "a"), ("a", "b")):
        added_K = partition(form=Form.add).assign(replace(rollouts, texts=texts), rewards, None)[0]
        assert added_K[0] == added_K[1]
    copies_K = partition().assign(replace(rollouts, texts=("a", "a")), rewards, None)[0]
    assert copies_K.tolist() == pytest.approx([-0.9, -0.45])


def test_the_model_card_says_what_was_paid():
    says = "the share of its group without the same answer (form multiply), among the correct completions"
    assert partition(gate=Gate.correct).description == says
