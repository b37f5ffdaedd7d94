import math

import pytest
import torch

from dqo.errors import ConfigError
from dqo.loss.clip import Clip, Level, LossType
from dqo.loss.correction.importance_sampling import Mismatch, Mode
from tests.factories import make_loss_inputs


def clip(
    *,
    loss_type: LossType = LossType.dapo,
    level: Level = Level.token,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    beta: float = 0.0,
    use_bias_correction_kl: bool = False,
    max_completion_length: int = 10,
    mode: Mode = Mode.none,
    clip_max: float | None = 3.0,
) -> Clip:
    return Clip(
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        delta=delta,
        beta=beta,
        use_bias_correction_kl=use_bias_correction_kl,
        max_completion_length=max_completion_length,
        importance_sampling_mode=mode,
        importance_sampling_clip_max=clip_max,
        importance_sampling_clip_min=None,
    )


def apply(loss: Clip, *, ratios, advantages, weights=None, rows=None, ref=None, sampler=None):
    """(loss, gradient, clip metrics) for policy log-probabilities log(ratio) and old log-probabilities 0."""
    logprobs_N = torch.tensor(ratios).log().requires_grad_()
    given = {"ref_logprobs_N": ref, "weights_N": weights, "rows_N": rows}
    inputs = make_loss_inputs(
        logprobs_N,
        old_logprobs_N=torch.zeros(len(ratios)),
        sampler_logprobs_N=torch.zeros(len(ratios)) if sampler is None else torch.tensor(sampler),
        advantages_N=torch.tensor(advantages),
        **{name: torch.tensor(values) for name, values in given.items() if values is not None},
    )
    value, means = loss(inputs)
    (gradient_N,) = torch.autograd.grad(value, logprobs_N)
    means = {name: (total / count).item() for name, (total, count) in means.items() if name not in Mismatch.names}
    return value.item(), gradient_N, means


SAMPLED = torch.tensor([[False, True, True, True], [False, False, True, False], [False, True, True, False]])
VALID = torch.tensor([True, True, False])  # 2 valid rows with 4 sampled tokens


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        (LossType.dapo, [[0, 1 / 4, 1 / 4, 1 / 4], [0, 0, 1 / 4, 0]]),
        (LossType.bnpo, [[0, 1 / 4, 1 / 4, 1 / 4], [0, 0, 1 / 4, 0]]),
        (LossType.cispo, [[0, 1 / 4, 1 / 4, 1 / 4], [0, 0, 1 / 4, 0]]),
        (LossType.grpo, [[0, 1 / 6, 1 / 6, 1 / 6], [0, 0, 1 / 2, 0]]),
        (LossType.sapo, [[0, 1 / 6, 1 / 6, 1 / 6], [0, 0, 1 / 2, 0]]),
        (LossType.dr_grpo, [[0, 1 / 20, 1 / 20, 1 / 20], [0, 0, 1 / 20, 0]]),
    ],
)
def test_weights_of_each_loss_type_skip_masked_completions(loss_type, expected):
    weights_BT = clip(loss_type=loss_type).token_weights(SAMPLED, VALID, rows=2, tokens=4)
    torch.testing.assert_close(weights_BT, torch.tensor([*expected, [0.0, 0, 0, 0]]))


@pytest.mark.parametrize("loss_type", LossType)
def test_token_weights_are_0_if_no_row_is_valid(loss_type):
    nothing = torch.zeros(3, dtype=torch.bool)
    assert clip(loss_type=loss_type).token_weights(SAMPLED, nothing, rows=0, tokens=0).eq(0).all()


def test_ratios_are_clipped_above_for_positive_and_below_for_negative_advantages():
    value, gradient_N, means = apply(
        clip(epsilon=0.2, epsilon_high=0.3),
        ratios=[1.0, 1.25, 1.4, 0.5, 1.4, 0.9, 0.7],
        advantages=[2.0, 2.0, 2.0, 2.0, -1.0, -1.0, -1.0],
    )
    expected = [-2.0, -2.5, -2.6, -1.0, 1.4, 0.9, 0.8]  # 1.4 is cut to 1.3 and 0.7 to 0.8
    assert value == pytest.approx(sum(expected), abs=1e-6)
    # d loss / d log ratio = loss where it is not clipped
    torch.testing.assert_close(gradient_N, torch.tensor([-2.0, -2.5, 0, -1.0, 1.4, 0.9, 0]))
    assert means == pytest.approx(
        {"clip_ratio/low_mean": 1 / 7, "clip_ratio/high_mean": 1 / 7, "clip_ratio/region_mean": 2 / 7}
    )


def test_epsilon_high_defaults_to_epsilon():
    assert apply(clip(epsilon=0.1), ratios=[1.5], advantages=[1.0])[0] == pytest.approx(-1.1)


def test_delta_caps_the_ratio_of_a_negative_advantage():
    free, capped = clip(), clip(delta=2.0)
    assert apply(free, ratios=[5.0], advantages=[-1.0])[0] == pytest.approx(5.0)
    value, gradient_N, _ = apply(capped, ratios=[5.0], advantages=[-1.0])
    assert (value, gradient_N.item()) == (pytest.approx(2.0), 0.0)
    assert apply(capped, ratios=[1.1], advantages=[-1.0])[0] == pytest.approx(1.1)


def test_weights_multiply_each_token():
    value, gradient_N, _ = apply(clip(), ratios=[1.0, 1.0], advantages=[1.0, 1.0], weights=[0.25, 3.0])
    assert value == pytest.approx(-3.25)
    torch.testing.assert_close(gradient_N, torch.tensor([-0.25, -3.0]))


def test_a_sequences_ratio_is_the_geometric_mean_of_its_tokens():
    ratios, rows = [1.6, 0.9, 1.0, 0.5], [7, 7, 3, 3]  # row 7: 1.2; row 3: 0.7071
    value, gradient_N, means = apply(
        clip(level=Level.sequence), ratios=ratios, rows=rows, advantages=[1.0, 1.0, -2.0, -2.0]
    )
    first, second = math.sqrt(1.6 * 0.9), 0.8  # 0.7071 is cut to 0.8
    assert value == pytest.approx(-2 * first + 2 * 2 * second, abs=1e-6)
    torch.testing.assert_close(gradient_N, torch.tensor([-first, -first, 0.0, 0.0]))
    assert means == pytest.approx(
        {"clip_ratio/low_mean": 1 / 2, "clip_ratio/high_mean": 0, "clip_ratio/region_mean": 1 / 2}
    )


def test_sequence_metrics_count_completions_and_not_tokens():
    _, _, means = apply(
        clip(level=Level.sequence), ratios=[1.0, 1.0, 1.0, 2.0], rows=[0, 0, 0, 1], advantages=[1.0] * 4
    )
    assert means["clip_ratio/high_mean"] == pytest.approx(1 / 2)
    _, _, means = apply(clip(), ratios=[1.0, 1.0, 1.0, 2.0], rows=[0, 0, 0, 1], advantages=[1.0] * 4)
    assert means["clip_ratio/high_mean"] == pytest.approx(1 / 4)


def test_the_kl_is_k3_with_its_coefficient():
    ratios, ref, beta = [0.5, 2.0], [0.0, 0.0], 0.1
    value, gradient_N, means = apply(clip(beta=beta), ratios=ratios, advantages=[0.0, 0.0], ref=ref)
    # d = log reference - log policy: log 2, -log 2
    kl = [2 - math.log(2) - 1, 0.5 + math.log(2) - 1]
    assert value == pytest.approx(beta * sum(kl), abs=1e-6)
    torch.testing.assert_close(gradient_N, torch.tensor([beta * (1 - 2), beta * (1 - 0.5)]))
    assert means["kl"] == pytest.approx(sum(kl) / 2, abs=1e-6)


def test_the_corrected_kl_is_multiplied_by_the_ratio_with_gradient():
    value, gradient_N, means = apply(
        clip(beta=0.1, use_bias_correction_kl=True), ratios=[1.0], advantages=[0.0], ref=[math.log(2)]
    )
    kl = 2 - math.log(2) - 1
    assert value == pytest.approx(0.1 * kl)
    assert gradient_N.item() == pytest.approx(0.1 * (kl + 1 - 2))  # 0.1 * (log policy - log reference)
    assert means["kl"] == pytest.approx(kl)


@pytest.mark.parametrize(("corrected", "exact"), [(True, True), (False, False)])
def test_only_the_corrected_kl_has_the_gradient_of_the_kl(corrected, exact):
    """Expectation over all tokens of a softmax policy, compared with autograd through the closed form."""
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 6, generator=generator)
    logits.requires_grad_()
    logprobs_N = logits.log_softmax(-1)
    ref_N = reference.log_softmax(-1)
    (expected,) = torch.autograd.grad((logprobs_N.exp() * (logprobs_N - ref_N)).sum(), logits, retain_graph=True)
    inputs = make_loss_inputs(logprobs_N, ref_logprobs_N=ref_N, weights_N=logprobs_N.detach().exp())
    value, _ = clip(beta=1.0, use_bias_correction_kl=corrected)(inputs)
    (got,) = torch.autograd.grad(value, logits)
    assert torch.allclose(got, expected, atol=1e-6) == exact


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_micro_batches_add_up(level, beta):
    generator = torch.Generator().manual_seed(0)
    rows_N = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3])
    columns = torch.randn(5, 8, generator=generator) * 0.3
    loss = clip(level=level, beta=beta, mode=Mode(f"{level}_truncate"))

    def part(chosen):
        logprobs_N, old_N, sampler_N, ref_N, advantages_N = (column[chosen] for column in columns)
        inputs = make_loss_inputs(
            logprobs_N, old_logprobs_N=old_N, sampler_logprobs_N=sampler_N, ref_logprobs_N=ref_N if beta else None,
            advantages_N=advantages_N, weights_N=torch.full_like(old_N, 0.1), rows_N=rows_N[chosen],
        )  # fmt: skip
        return loss(inputs)

    whole, means = part(torch.arange(8))
    (first, means_1), (second, means_2) = part(torch.tensor([0, 1, 2, 6, 7])), part(torch.tensor([3, 4, 5]))
    torch.testing.assert_close(first + second, whole)
    assert set(means) == set(loss.names) == set(means_1)
    for name in set(means) - set(Mismatch.names):
        for of_whole, of_1, of_2 in zip(means[name], means_1[name], means_2[name], strict=True):
            torch.testing.assert_close(of_1 + of_2, of_whole)


@pytest.mark.parametrize("arguments", [{"delta": 1.2}, {"delta": 1.25, "epsilon_high": 0.28}])
def test_a_cap_below_the_clipping_range_is_refused(arguments):
    with pytest.raises(ConfigError, match=r"^loss\.delta=.*type loss\.delta="):
        clip(**arguments)


def test_the_sampler_correction_weights_the_objective_but_not_the_kl():
    how = {"ratios": [1.0, 1.0], "advantages": [1.0, 1.0], "ref": [0.5, 0.5], "sampler": [math.log(0.5), 0.0]}
    plain, _, kl = apply(clip(beta=0.1), **how)
    corrected, gradient_N, kl_corrected = apply(clip(beta=0.1, mode=Mode.token_truncate), **how)
    assert plain - corrected == pytest.approx(1.0)  # the first token's ratio is 2
    assert kl == kl_corrected
    k3_gradient = 1 - math.exp(0.5)
    torch.testing.assert_close(gradient_N, torch.tensor([-2.0, -1.0]) + 0.1 * k3_gradient)
