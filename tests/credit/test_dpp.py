import math
from dataclasses import replace

import pytest
import torch

from dqo.credit.dpp import Embedding, Precision, Quality
from dqo.credit.gating.gate import Gate
from dqo.dpp import Kernel, kernel_matrix, leave_one_out_credits
from dqo.errors import ConfigError, StageError
from dqo.references import References
from dqo.stages import Credit
from tests.credit.builders import dpp
from tests.credit.groups import group, reference, unit_vectors


def test_is_a_credit_that_needs_embeddings():
    assert isinstance(dpp(), Credit) and dpp().uses_embeddings


@pytest.mark.parametrize("kernel", Kernel)
def test_credits_are_the_leave_one_out_credits_of_the_kernel(kernel):
    embeddings_PKD = unit_vectors(2, 4, 6)
    credits_PK = dpp(kernel=kernel, sigma=0.7, degree=3, offset=0.5).assign(*group([[0.0] * 4] * 2), embeddings_PKD)
    kernel_PKK = kernel_matrix(embeddings_PKD, kind=kernel, sigma=0.7, degree=3, offset=0.5)
    torch.testing.assert_close(credits_PK, leave_one_out_credits(kernel_PKK))


def test_dtype_float64_computes_in_float64_and_returns_float32():
    embeddings_PKD = unit_vectors(2, 4, 384)
    credits_PK = dpp(dtype=Precision.float64).assign(*group([[0.0] * 4] * 2), embeddings_PKD)
    assert credits_PK.dtype == torch.float32
    assert torch.equal(credits_PK, leave_one_out_credits(kernel_matrix(embeddings_PKD.double())).float())


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, [True, True, False, True, True]),
        ({"gate": Gate.correct}, [True, False, False, True, True]),
        ({"gate": Gate.threshold, "threshold": 0.5}, [False, False, False, True, True]),
    ],
)
def test_the_kernel_holds_the_valid_completions_that_pass_and_the_others_get_credit_0(changes, passes):
    rewards, valid = [[0.25, 0.0, 1.0, 0.5, 1.0]], [[True, True, False, True, True]]
    embeddings_PKD = unit_vectors(1, 5, 6)
    credits_PK = dpp(**changes).assign(*group(rewards, valid), embeddings_PKD)
    passes_K = torch.tensor(passes)
    assert not credits_PK[0, ~passes_K].any()
    alone_K = leave_one_out_credits(kernel_matrix(embeddings_PKD[0, passes_K]))
    torch.testing.assert_close(credits_PK[0, passes_K], alone_K)


@pytest.mark.parametrize(("correct", "credit"), [(1, math.log(2)), (0, 0.0)])
def test_a_lone_correct_completion_earns_log_2(correct, credit):
    rewards = [[1.0] * correct + [0.0] * (3 - correct)]
    credits_PK = dpp(gate=Gate.correct).assign(*group(rewards), unit_vectors(1, 3, 6))
    assert credits_PK[0].tolist() == pytest.approx([credit, 0.0, 0.0])


def test_quality_is_the_square_root_of_exp_of_reward_over_temperature():
    rewards = [[0.0, 1.0, 2.0, -1.0]]
    embeddings_PKD = unit_vectors(1, 4, 6)
    credits_PK = dpp(quality=Quality.reward, quality_temperature=0.5).assign(*group(rewards), embeddings_PKD)
    psi_PKD = torch.tensor(rewards).div(0.5).exp().sqrt()[..., None] * embeddings_PKD
    torch.testing.assert_close(credits_PK, leave_one_out_credits(psi_PKD @ psi_PKD.mT))
    assert credits_PK[0, 2] > math.log(2)  # the maximum of a kernel without quality


def test_quality_that_float32_cannot_hold_names_the_prompts_and_float64():
    rollouts, rewards = group([[0.0, 0.0], [16.0, 16.0], [0.0, 16.0]])
    same_PKD = unit_vectors(1, 1, 6).expand(3, 2, 6)
    with pytest.raises(StageError) as caught:
        dpp(quality=Quality.reward).assign(rollouts, rewards, same_PKD)
    assert caught.value.positions == (11, 12)
    assert str(caught.value) == (
        "[credit, prompts 11, 12] the kernel is not positive definite in float32 (largest entry 8.89e+06); "
        "compute it in float64 (credit.dtype=float64)"
    )
    credits_PK = dpp(quality=Quality.reward, dtype=Precision.float64).assign(rollouts, rewards, same_PKD)
    assert credits_PK[1].tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)


def test_embeddings_that_are_not_finite_name_the_prompt():
    embeddings_PKD = unit_vectors(2, 3, 6)
    embeddings_PKD[1, 2, 0] = math.nan
    with pytest.raises(StageError, match=r"\[credit, prompts 11\] the kernel is not finite"):
        dpp().assign(*group([[0.0] * 3] * 2), embeddings_PKD)


def test_no_gradient_reaches_the_credits():
    credits_PK = dpp().assign(*group([[0.0] * 3]), unit_vectors(1, 3, 6).requires_grad_())
    assert not credits_PK.requires_grad


def test_gate_correct_needs_a_reward_that_says_what_is_correct():
    rollouts, rewards = group([[0.0, 1.0]])
    with pytest.raises(ConfigError, match=r"type credit\.gate=threshold credit\.threshold=0\.5"):
        dpp(gate=Gate.correct).assign(rollouts, replace(rewards, correct_PK=None), unit_vectors(1, 2, 6))


EMPTY = ["", " ", "\n\t", "\u200b", "\ufeff \u2060", "\x00", "\u2800\u2800", "\u3164", "\ufe0f\u200d", " \u0301"]


@pytest.mark.parametrize("text", EMPTY)
@pytest.mark.parametrize("changes", [{}, {"kernel": Kernel.rbf}, {"quality": Quality.reward}, {"gate": Gate.correct}])
def test_an_empty_completion_earns_nothing_though_it_differs_from_all_others(changes, text):
    rollouts, rewards = group([[1.0, 1.0, 1.0, 1.0]])
    rollouts = replace(rollouts, texts=("w1", text, "w1 w2", "w1"))
    embeddings_PKD = unit_vectors(1, 4, 6)
    credits_PK = dpp(**changes).assign(rollouts, rewards, embeddings_PKD)
    assert credits_PK[0, 1] == 0
    alone_PK = dpp(**changes).assign(*group([[1.0] * 3]), embeddings_PKD[:, [0, 2, 3]])
    torch.testing.assert_close(credits_PK[:, [0, 2, 3]], alone_PK)


def test_a_group_of_empty_completions_earns_nothing_and_a_lone_text_in_it_log_2():
    rollouts, rewards = group([[1.0] * 3] * 2)
    rollouts = replace(rollouts, texts=("", " ", "", "", "w1", ""))
    embeddings_PKD = unit_vectors(2, 3, 6)
    embeddings_PKD[0, 0] = 0  # encoders without a token to look at
    embeddings_PKD[1, 0] = math.nan
    credits_PK = dpp().assign(rollouts, rewards, embeddings_PKD)
    assert credits_PK.tolist() == [[0.0] * 3, [0.0, pytest.approx(math.log(2)), 0.0]]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "what it adds to the log-determinant of its group's embeddings (cosine kernel)"),
        ({"kernel": Kernel.rbf, "gate": Gate.correct}, "(rbf kernel), among the correct completions"),
        (
            {"gate": Gate.threshold, "threshold": 0.5},
            "(cosine kernel), among completions with a reward of at least 0.5",
        ),
        ({"quality": Quality.reward}, "(cosine kernel, lengths scaled by the reward)"),
        ({"embedding": Embedding.prompt_centred}, "(cosine kernel, embeddings minus their mean)"),
        (
            {"embedding": Embedding.reference_centred},
            "(cosine kernel, embeddings minus the mean of the initial policy's)",
        ),
    ],
)
def test_the_model_card_says_what_was_paid(changes, says):
    assert dpp(**changes).description.endswith(says)


def test_says_whether_it_needs_rewards():
    assert not dpp().needs_rewards
    assert dpp(quality=Quality.reward).needs_rewards and dpp(gate=Gate.correct).needs_rewards


def centred(embeddings_PKD, counted_PK):
    """Each group's embeddings minus the mean of those that count, by loops."""
    means = [
        torch.stack([e for e, one in zip(*pair, strict=True) if one]).mean(0)
        for pair in zip(embeddings_PKD, counted_PK, strict=True)
    ]
    return embeddings_PKD - torch.stack(means)[:, None]


@pytest.mark.parametrize("kernel", [Kernel.cosine, Kernel.polynomial])
def test_prompt_centred_embeddings_are_compared_by_their_inner_products(kernel):
    rewards, valid = [[1.0, 0.0, 1.0, 1.0, 1.0]] * 2, [[True, True, False, True, True]] * 2
    embeddings_PKD = unit_vectors(2, 5, 6)
    credit = dpp(gate=Gate.correct, embedding=Embedding.prompt_centred, kernel=kernel, degree=3, offset=0.25)
    credits_PK = credit.assign(*group(rewards, valid), embeddings_PKD)
    passes_PK = torch.tensor([[True, False, False, True, True]] * 2)
    left_PKD = centred(embeddings_PKD.double(), passes_PK)[:, [0, 3, 4]]
    kernel_PKK = left_PKD @ left_PKD.mT
    if kernel == Kernel.polynomial:
        kernel_PKK = (kernel_PKK + 0.25) ** 3
    torch.testing.assert_close(
        credits_PK[:, [0, 3, 4]], leave_one_out_credits(kernel_PKK).float(), atol=1e-6, rtol=1e-5
    )
    assert not credits_PK[~passes_PK].any()


@pytest.mark.parametrize("k", [3, 7])
def test_centred_a_group_of_copies_and_a_completion_that_passes_alone_earn_exactly_0(k):
    same_PKD = unit_vectors(1, 1, 384).expand(1, k, 384)
    credit = dpp(embedding=Embedding.prompt_centred, gate=Gate.correct)
    for rewards in ([1.0] * k, [1.0] + [0.0] * (k - 1)):
        assert credit.assign(*group([rewards]), same_PKD)[0].tolist() == [0.0] * k


def test_centred_the_credit_of_an_opposite_completion_stays_below_log_5():
    east = torch.tensor([1.0, 0.0])
    credits_PK = dpp(embedding=Embedding.prompt_centred).assign(
        *group([[0.0] * 50]), torch.stack([-east] + [east] * 49)[None]
    )
    # the outlier is at -1.96 east and the others at 0.04: b = 1.96² / (1 + 49 · 0.04²)
    assert float(credits_PK[0, 0]) == pytest.approx(math.log1p(1.96**2 / (1 + 49 * 0.04**2)), abs=1e-6)
    assert float(credits_PK.max()) < math.log(5)


def test_reference_centred_subtracts_the_mean_of_the_initial_policys_readable_completions():
    references, embeddings_PKD, reference_PRD = References(), unit_vectors(2, 3, 6), unit_vectors(2, 4, 6, seed=1)
    rollouts, rewards = group([[1.0] * 3] * 2)
    credit = dpp(embedding=Embedding.reference_centred, references=references, samples=3)
    assert references.count == 3 and references.embedded
    texts, invalid = ["w1", " ", "w2", "w3"], [False] * 4  # what the reward made of them does not matter
    for prompt, embeddings_KD in zip(rollouts.prompts, reference_PRD, strict=True):
        one = reference(prompt, [0.0] * 4, valid=invalid, texts=texts, embeddings_KD=embeddings_KD)
        references.add({prompt.tokens: one})
    credits_PK = credit.assign(rollouts, rewards, embeddings_PKD)
    left_PKD = embeddings_PKD.double() - reference_PRD.double()[:, [0, 2]].mean(1, keepdim=True)
    torch.testing.assert_close(credits_PK, leave_one_out_credits(left_PKD @ left_PKD.mT).float(), atol=1e-6, rtol=1e-5)


def test_a_reference_without_a_readable_completion_centres_nothing():
    references, embeddings_PKD = References(), unit_vectors(1, 3, 6)
    rollouts, rewards = group([[1.0] * 3])
    credit = dpp(embedding=Embedding.reference_centred, references=references, samples=2)
    nothing = reference(rollouts.prompts[0], [0.0] * 2, texts=["", " "], embeddings_KD=torch.full((2, 6), math.nan))
    references.add({rollouts.prompts[0].tokens: nothing})
    torch.testing.assert_close(
        credit.assign(rollouts, rewards, embeddings_PKD), dpp().assign(rollouts, rewards, embeddings_PKD)
    )
