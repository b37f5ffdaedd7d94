import math

import pytest
import torch

from dqo.capabilities import PaysTokens
from dqo.contracts import checked_token_credits
from dqo.credit.dpp_steps import DppSteps, step_novelties
from dqo.credit.gating.gate import Gate, Gating
from dqo.credit.steps.finding import Splitting
from dqo.embed.fake import Fake
from dqo.errors import ConfigError, StageError
from dqo.references import References
from dqo.stages import Credit
from tests.credit.byte_tokens import TOKENIZER, sampled
from tests.credit.groups import unit_vectors
from tests.factories import make_rewards
from tests.helpers.toy_stages import OneHotEmbed


def dpp_steps(embed=None, *, steps=Splitting.lines, gate=Gate.correct, epsilon=0.001):
    return DppSteps(
        References(), embed or Fake(dim=64), TOKENIZER, steps=steps, epsilon=epsilon,
        gating=Gating(gate=gate, threshold=None),
    )  # fmt: skip


def test_is_a_credit_that_pays_tokens_and_no_completions():
    credit, rollouts = dpp_steps(), sampled(["a\nb", "c"], 2)
    assert isinstance(credit, Credit) and isinstance(credit, PaysTokens) and not credit.uses_embeddings
    assert credit.assign(rollouts, make_rewards([[1.0, 1.0]]), None).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("epsilon", [0.001, 0.1])
def test_novelties_are_squared_distances_to_the_steps_before_and_their_logs_add_up_to_log_det(epsilon):
    embeddings_SD = unit_vectors(6, 8).double()
    gram_SS = embeddings_SD @ embeddings_SD.T
    novelties_S = step_novelties(embeddings_SD, epsilon)
    for p in range(6):
        before, with_p = (gram_SS[:n, :n] + epsilon * torch.eye(n, dtype=torch.float64) for n in (p, p + 1))
        pivot = torch.linalg.det(with_p) / torch.linalg.det(before)  # 1 for no steps
        assert float(novelties_S[p]) == pytest.approx(min(1.0, max(0.0, float(pivot) - epsilon)), abs=1e-12)
    whole = torch.logdet(gram_SS + epsilon * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close((novelties_S + epsilon).log().sum(), whole)


def test_an_equal_step_is_new_once():
    east, north = torch.eye(2)
    novelties_S = step_novelties(torch.stack([east, north, east, (east + north) / math.sqrt(2)]), 1e-6)
    assert novelties_S.tolist() == pytest.approx([1.0, 1.0, 0.0, 0.0], abs=1e-5)


def brute_force(rollouts, rewards, epsilon=0.001) -> torch.Tensor:
    """Lines, credit by credit, from determinants of texts."""
    credits_BT, embed = torch.zeros(rollouts.tokens_BT.shape, dtype=torch.float64), Fake(dim=64)
    for p, prompt in enumerate(rollouts.prompts):
        rows = [p * rollouts.k + i for i in range(rollouts.k) if rewards.correct_PK[p, i] and rewards.valid_PK[p, i]]
        if len(rows) < 2:
            continue
        lines = [(b, line) for b in rows for line in rollouts.texts[b].splitlines(keepends=True)]
        vectors_SD = torch.cat([embed.encode_texts([line.strip()]) for _, line in lines]).double()
        novelty = step_novelties(vectors_SD, epsilon).tolist()
        counts = [len(TOKENIZER.encode(line, add_special_tokens=False)) for _, line in lines]
        mean = sum(u * n for u, n in zip(novelty, counts, strict=True)) / sum(counts)
        column = {b: len(prompt.tokens) for b in rows}
        for (b, _), u, count in zip(lines, novelty, counts, strict=True):
            credits_BT[b, column[b] : column[b] + count] = u - mean
            column[b] += count
    return credits_BT.float()


def test_credits_are_those_of_the_definition():
    texts = ["x y\nz z\n", "x y\nw", "wrong\nx", "q r\nx y\nz", "x", "y", "x\ny", "wrong"]
    rollouts, rewards = sampled(texts, 4), make_rewards([[1, 1, 0, 1], [1, 0, 1, 0]])
    credits_BT = dpp_steps().assign_tokens(rollouts, rewards)
    torch.testing.assert_close(credits_BT, brute_force(rollouts, rewards))
    assert torch.equal(credits_BT, checked_token_credits(rollouts, rewards.valid_PK, credits_BT))
    assert not credits_BT[[2, 5, 7]].any() and credits_BT[0].any()
    assert float(credits_BT[:4].sum()) == pytest.approx(0.0, abs=1e-5)
    assert float(credits_BT[0].max()) > 0 > float(credits_BT[1, len(rollouts.prompts[0].tokens)])  # x y, again


@pytest.mark.parametrize(
    ("texts", "rewards"),
    [
        (["x\ny", "z", "w"], [1, 0, 0]),  # one passes
        (["x\ny", "z", "w"], [0, 0, 0]),
        (["x", "y", "z"], [1, 1, 1]),  # all steps are equally new
        (["", " ", "z"], [1, 1, 1]),  # one has something to read
    ],
)
def test_where_no_step_is_newer_than_another_nothing_is_paid(texts, rewards):
    credits_BT = dpp_steps().assign_tokens(sampled(texts, 3), make_rewards([[float(r) for r in rewards]]))
    assert credits_BT.tolist() == torch.zeros_like(credits_BT).tolist()


def test_an_encoder_that_takes_no_single_texts_is_refused():
    with pytest.raises(ConfigError, match=r"OneHotEmbed has no encode_texts, .* type embed=sentence, or credit=dpp"):
        dpp_steps(OneHotEmbed())


def test_a_step_without_an_embedding_stops_the_run():
    class Broken(Fake):
        def encode_texts(self, texts):
            return super().encode_texts(texts) * math.nan

    with pytest.raises(StageError, match=r"\[embed, prompts 0\] no finite embedding of length 1 for the step 'x'"):
        dpp_steps(Broken(dim=8)).assign_tokens(sampled(["x", "y"], 2), make_rewards([[1.0, 1.0]]))


def test_the_model_card_says_what_was_paid():
    assert dpp_steps(steps=Splitting.sentences).description == (
        "how new each of its steps (sentences) is among the steps of its group, at the tokens of the step, among the "
        "correct completions"
    )
