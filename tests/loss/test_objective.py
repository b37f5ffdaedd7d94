"""Of what the losses' gradients are: every group of a small policy over sequences of one or two tokens is tried."""

import itertools

import pytest
import torch

from dqo.dpp import kernel_matrix, leave_one_out_credits, log_det
from dqo.records import Estimates, Experience, Targets
from dqo.run.build import make
from tests.config.builders import checked
from tests.factories import make_loss_inputs, make_rewards, make_rollouts

WORDS, END = ("w0", "w1"), 2
SEQUENCES = [(END,), *itertools.product((0, 1), (0, 1, END))]  # the last token may be cut: two tokens at most
K, ALPHA = 2, 1.5


class Policy:
    """Next-token distributions: of the first token, and of the second one after each first one."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(3, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def logprobs(self, sequence):
        """Of the tokens of a sequence."""
        tables = self.logits.log_softmax(-1)
        rows = [2, *sequence[:-1]]  # row 2: before the first token
        return torch.stack([tables[row, token] for row, token in zip(rows, sequence, strict=True)])

    def gradient(self, scalar):
        return torch.autograd.grad(scalar, self.logits, retain_graph=True)[0]


def text(sequence):
    return " ".join(WORDS[token] for token in sequence if token != END)


def stages(*options):
    config = checked(*options, "learner=torch_single", "rollout=hf", max_completion_length=2)
    return make(config.advantage, "advantage", {}), make(config.loss, "loss", {})


def gradients(*options, seed=0, baseline=0.4):
    """(expectation of the negative loss's gradient over all groups, gradient of the objective / (k * 2 tokens)).
    ``seed``: of policy, embeddings and rewards; ``baseline``: of the credit in ``advantage=unbiased``."""
    advantage, loss = stages(*options)
    policy, generator = Policy(seed), torch.Generator().manual_seed(seed + 1)
    embeddings = torch.nn.functional.normalize(torch.randn(len(SEQUENCES), 3, generator=generator), dim=-1)
    rewards = torch.rand(len(SEQUENCES), generator=generator)
    logprobs = [policy.logprobs(sequence) for sequence in SEQUENCES]
    estimated, objective = torch.zeros(3, 3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(len(SEQUENCES)), repeat=K):
        kernel_KK = kernel_matrix(embeddings[list(group)])
        chosen = [SEQUENCES[i] for i in group]
        rollouts = make_rollouts([text(s) for s in chosen], K, finished=[s[-1] == END for s in chosen])
        experience = Experience(
            rollouts=rollouts, rewards=make_rewards(rewards[list(group)][None]), embeddings_PKD=None,
            credits_PK=leave_one_out_credits(kernel_KK)[None],
        )  # fmt: skip
        if hasattr(advantage, "baseline"):
            advantage.load_state_dict({"baseline": baseline})
        targets = advantage(experience, Estimates(), alpha=ALPHA)
        sampled_BT, valid_B = rollouts.sampled_BT, torch.ones(K, dtype=torch.bool)
        weights_BT = loss.token_weights(sampled_BT, valid_B, rows=K, tokens=int(sampled_BT.sum()))
        fields = {
            "advantages_N": targets.advantages_BT[sampled_BT], "weights_N": weights_BT[sampled_BT],
            "rows_N": torch.arange(K)[:, None].expand_as(sampled_BT)[sampled_BT],
        }  # fmt: skip
        value, _ = loss(make_loss_inputs(torch.cat([logprobs[i] for i in group]), **fields))
        chance = torch.stack([logprobs[i].sum() for i in group]).sum().exp()
        estimated -= chance.detach() * policy.gradient(value)
        objective = objective + chance * (rewards[list(group)].sum() + ALPHA * log_det(kernel_KK))
    return estimated, policy.gradient(objective) / (K * 2)


def test_rloo_has_the_objectives_exact_gradient_where_completions_differ_in_length():
    estimated, exact = gradients("algorithm=rloo")
    torch.testing.assert_close(estimated, exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo"])
def test_other_weights_of_tokens_change_the_direction_of_the_gradient(loss_type):
    estimated, exact = gradients("algorithm=rloo", f"loss.loss_type={loss_type}")
    assert torch.cosine_similarity(estimated.flatten(), exact.flatten(), dim=0) < 0.999


@pytest.mark.parametrize(
    ("seed", "baseline", "cosine"), [(0, 0.4, 0.9982), (0, 0.0, 0.9567), (17, 0.4, 0.9994), (17, 0.0, 0.2992)]
)
def test_the_direction_with_dapo_at_one_group_depends_on_the_credits_baseline(seed, baseline, cosine):
    """A token's weight is 1 / tokens of the group. Without a baseline the advantages have a mean, which is weighed
    wrongly, too."""
    estimated, exact = gradients("algorithm=rloo", "loss.loss_type=dapo", seed=seed, baseline=baseline)
    found = torch.cosine_similarity(estimated.flatten(), exact.flatten(), dim=0)
    assert float(found) == pytest.approx(cosine, abs=5e-4)


def test_with_the_bias_correction_the_kl_is_exact_per_token_and_not_of_the_sequence():
    """Its gradient is that of the KL of the next token's distribution, at the prefixes as they were sampled; the
    sequence's KL also changes with the prefixes."""
    _, loss = stages("loss=dr_grpo", "beta=1.0")
    policy, reference = Policy(0), Policy(1)
    estimated, sequences = torch.zeros(3, 3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    per_token = torch.zeros((), dtype=torch.float64)
    for sequence in SEQUENCES:
        logprobs_N, ref_N = policy.logprobs(sequence), reference.logprobs(sequence).detach()
        weights_N = torch.full_like(ref_N, 0.5)  # 1 / (one row * 2 tokens)
        value, _ = loss(make_loss_inputs(logprobs_N, ref_logprobs_N=ref_N, weights_N=weights_N))
        chance = logprobs_N.sum().exp()
        estimated += chance.detach() * policy.gradient(value)
        sequences = sequences + chance * (logprobs_N - ref_N).sum() / 2
    tables, ref_tables = policy.logits.log_softmax(-1), reference.logits.log_softmax(-1)
    kl_3 = (tables.exp() * (tables - ref_tables)).sum(-1)
    reached_3 = torch.cat([tables[2, :2].exp(), torch.ones(1, dtype=torch.float64)]).detach()
    per_token = (reached_3 * kl_3).sum() / 2
    torch.testing.assert_close(estimated, policy.gradient(per_token), atol=1e-6, rtol=0)
    assert (estimated - policy.gradient(sequences)).abs().max() > 0.01


def kl_gradients(loss):
    """(expectation of the gradient of the loss without advantages over all groups, gradient of the KL of whole
    completions / 2 tokens)."""
    policy, reference = Policy(0), Policy(1)
    logprobs = [policy.logprobs(sequence) for sequence in SEQUENCES]
    ref_logprobs = [reference.logprobs(sequence).detach() for sequence in SEQUENCES]
    estimated, exact = torch.zeros(3, 3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(len(SEQUENCES)), repeat=K):
        chosen = [SEQUENCES[i] for i in group]
        rollouts = make_rollouts([text(s) for s in chosen], K, finished=[s[-1] == END for s in chosen])
        rewards, sampled_BT = make_rewards(torch.zeros(1, K)), rollouts.sampled_BT
        experience = Experience(rollouts=rollouts, rewards=rewards, embeddings_PKD=None, credits_PK=torch.zeros(1, K))
        policy_N, ref_N = (torch.cat([each[i] for i in group]) for each in (logprobs, ref_logprobs))
        tables_BT = torch.zeros(2, *sampled_BT.shape, dtype=torch.float64)
        tables_BT[:, sampled_BT] = torch.stack([policy_N.detach(), ref_N])
        estimates = Estimates(old_logprobs_BT=tables_BT[0].float(), ref_logprobs_BT=tables_BT[1].float())
        marks = loss.marks(experience, estimates, Targets(advantages_BT=torch.zeros(sampled_BT.shape)))
        weights_BT = loss.token_weights(sampled_BT, torch.ones(K, dtype=torch.bool), rows=K, tokens=len(ref_N))
        fields = {
            "ref_logprobs_N": ref_N, "weights_N": weights_BT[sampled_BT],
            "rows_N": torch.arange(K)[:, None].expand_as(sampled_BT)[sampled_BT],
            "marks": {name: mark_BT[sampled_BT] for name, mark_BT in marks.items()},
        }  # fmt: skip
        value, _ = loss(make_loss_inputs(policy_N, **fields))
        chance = policy_N.sum().exp()
        estimated += chance.detach() * policy.gradient(value)
        exact = exact + chance * (policy_N - ref_N).sum() / (K * 2)
    return estimated, policy.gradient(exact)


def test_with_the_missing_term_the_kl_is_that_of_whole_completions():
    estimated, exact = kl_gradients(stages("loss=kl_sequence", "beta=1.0")[1])
    torch.testing.assert_close(estimated, exact, atol=1e-6, rtol=0)


def test_without_it_the_gradient_is_another():
    estimated, exact = kl_gradients(stages("loss=dr_grpo", "beta=1.0")[1])
    assert (estimated - exact).abs().max() > 0.01


def test_one_token_completions_have_no_missing_part():
    """The only length at which the gradient of k3, multiplied by the ratio, is that of the sequence's KL."""
    _, loss = stages("loss=kl_sequence", "beta=1.0")
    rollouts = make_rollouts(["", ""], K)
    experience = Experience(
        rollouts=rollouts, rewards=make_rewards([[0.0, 0.0]]), embeddings_PKD=None, credits_PK=torch.zeros(1, K)
    )
    zeros_BT, shape = torch.zeros(rollouts.sampled_BT.shape), rollouts.sampled_BT.shape
    estimates = Estimates(old_logprobs_BT=-torch.rand(shape), ref_logprobs_BT=-torch.rand(shape))
    (mark_BT,) = loss.marks(experience, estimates, Targets(advantages_BT=zeros_BT)).values()
    assert mark_BT.equal(zeros_BT)
