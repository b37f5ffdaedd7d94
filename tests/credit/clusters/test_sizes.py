import itertools

import pytest
import torch

from dqo.credit.clusters.sizes import cluster_sizes, same_key
from tests.credit.groups import group
from tests.helpers.toy_stages import CountingTask


def components(same_KK, earning_K):
    """Sizes of connected components, by walking."""
    sizes = []
    for i in range(len(earning_K)):
        seen, waiting = set(), [i] if earning_K[i] else []
        while waiting:
            a = waiting.pop()
            seen.add(a)
            waiting += [b for b in range(len(earning_K)) if same_KK[a][b] and earning_K[b] and b not in seen]
        sizes.append(len(seen))
    return sizes


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_clusters_are_connected_components_of_those_that_take_part(k):
    generator = torch.Generator().manual_seed(k)
    same_PKK = torch.rand(50, k, k, generator=generator) < 0.15
    earning_PK = torch.rand(50, k, generator=generator) < 0.8
    sizes_PK = cluster_sizes(same_PKK, earning_PK)
    expected = [components(same | same.T, earning) for same, earning in zip(same_PKK, earning_PK, strict=True)]
    assert sizes_PK.tolist() == expected


def test_a_chain_is_one_cluster():
    same_PKK = torch.zeros(1, 9, 9, dtype=torch.bool)
    for i, j in itertools.pairwise(range(9)):
        same_PKK[0, i, j] = True
    assert cluster_sizes(same_PKK, torch.ones(1, 9, dtype=torch.bool)).tolist() == [[9.0] * 9]


def test_equal_keys_are_the_same_and_no_others_key_is_asked_for():
    class Asked(CountingTask):
        def __init__(self):
            self.texts: list[str] = []

        def key(self, prompt, text):
            self.texts.append(text)
            return text[0] + str(prompt.position)

    rollouts, _ = group([[0.0] * 3] * 2)  # w0 … w5
    earning_PK = torch.tensor([[True, False, True], [True, True, True]])
    task = Asked()
    same_PKK = same_key(task, rollouts, earning_PK)
    assert task.texts == ["w0", "w2", "w3", "w4", "w5"]
    assert torch.equal(same_PKK, earning_PK[:, :, None] & earning_PK[:, None, :])
