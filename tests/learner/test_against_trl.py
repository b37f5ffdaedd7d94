"""One step on a batch of TRL: the same tokens and rewards must give TRL's loss and gradient."""

import pytest
import torch
from transformers import LlamaForCausalLM

from dqo.advantage.groups.normalization import ScaleRewards
from dqo.advantage.joint import Joint
from dqo.loss.clip import Level, LossType
from dqo.loss.correction.importance_sampling import Mismatch
from dqo.records import Estimates, Experience, Rewards
from tests.factories import make_prompts, make_rollouts, tiny_llama, word_tokenizer
from tests.learner.builders import Recorder, clip, make_learner

pytestmark = pytest.mark.slow
P, K, LONGEST = 3, 4, 8


def reward(completion_ids, **columns) -> list[float]:
    """Rewards from token ids, so that they differ. Completions cut by length stay in the batch."""
    return [sum(ids) % 7 / 7 + len(ids) / 10 for ids in completion_ids]


def trl_trainer(folder, loss_type: LossType, level: Level, beta: float):
    """A GRPOTrainer for the model in ``folder``, whose policy differs a little from the reference."""
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    config = trl.GRPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=P * K, num_generations=K, temperature=0.9,
        max_completion_length=LONGEST, loss_type=loss_type.value, importance_sampling_level=level.value, beta=beta,
        epsilon=0.2, epsilon_high=1.2 if loss_type == LossType.cispo else None,  # of CISPO TRL's is the cap itself
        bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, seed=1,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=LlamaForCausalLM.from_pretrained(folder), reward_funcs=reward, args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt.content} for prompt in make_prompts(P)]),
        processing_class=word_tokenizer(),
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1  # normally set by the training loop, which is not run here
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer.model.train()
    return trainer


def as_experience(inputs) -> Experience:
    """TRL's batch as an Experience."""
    pairs = zip(inputs["completion_ids"], inputs["completion_mask"].bool(), strict=True)
    completions = [ids[mask].tolist() for ids, mask in pairs]
    words = {i: word for word, i in word_tokenizer().get_vocab().items()}
    finished = [ids[-1] == 1 for ids in completions]
    texts = [" ".join(words[i] for i in ids if i != 1) for ids in completions]
    total_PK = torch.tensor(reward(completions)).view(P, K)
    return Experience(
        rollouts=make_rollouts(texts, K, prompts=make_prompts(P), finished=finished),
        rewards=Rewards(total_PK=total_PK, parts={}, correct_PK=None, valid_PK=torch.ones(P, K, dtype=torch.bool)),
        embeddings_PKD=None,
        credits_PK=torch.zeros(P, K),
    )


@pytest.mark.parametrize("loss_type", LossType)
@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradient_equal_trls(tmp_path, loss_type, beta, level, off_policy):
    tiny_llama().save_pretrained(tmp_path)
    trainer = trl_trainer(tmp_path, loss_type, level, beta)
    torch.manual_seed(3)
    inputs = trainer._generate_and_score_completions([{"prompt": p.content} for p in make_prompts(P) for _ in range(K)])
    experience = as_experience(inputs)
    rollouts = experience.rollouts
    tokens = int(inputs["completion_mask"].sum())
    assert int(rollouts.sampled_BT.sum()) == tokens
    assert not rollouts.finished_B.all()
    assert rollouts.finished_B.any()

    recorder = Recorder()
    learner = make_learner(
        LlamaForCausalLM.from_pretrained(tmp_path),
        loss=clip(loss_type=loss_type, level=level, beta=beta, max_completion_length=LONGEST),
        optim=recorder, temperature=0.9, budget=60,
    )  # fmt: skip
    learner.policy.load_state_dict(trainer.model.state_dict())
    estimates = learner.estimate(rollouts)
    if off_policy:  # ratios differ from 1, some are outside the clip range
        old_N = torch.randn(tokens, generator=torch.Generator().manual_seed(4)) * 0.3 - 3
        old_BT = torch.zeros(rollouts.tokens_BT.shape).masked_scatter(rollouts.sampled_BT, old_N)
        inputs["old_per_token_logps"] = torch.zeros(inputs["completion_ids"].shape).masked_scatter(
            inputs["completion_mask"].bool(), old_N
        )
        estimates = Estimates(old_logprobs_BT=old_BT, ref_logprobs_BT=estimates.ref_logprobs_BT)
    targets = Joint(scale_rewards=ScaleRewards.group)(experience, Estimates(), alpha=0.0)
    torch.testing.assert_close(targets.advantages_BT.sum(1) / rollouts.sampled_BT.sum(1), inputs["advantages"])

    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    report = learner.update(experience, estimates, targets)

    expected = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
    got = torch.cat([recorder.gradients[0][name].flatten() for name, _ in trainer.model.named_parameters()])
    assert report["micro_batches"] > 1
    assert (got - expected).norm() <= 1e-5 * expected.norm()
    assert report["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)  # terms of two signs nearly cancel
    theirs = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    others = {*Mismatch.names, *(("clip_ratio/high_mean",) if loss_type == LossType.cispo else ())}
    for name in {"entropy", *learner.loss.names} - others:  # the former with vLLM alone; CISPO's of A > 0 alone
        assert report[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6), name
    if loss_type != LossType.sapo:
        clipped = report["clip_ratio/high_mean" if loss_type == LossType.cispo else "clip_ratio/region_mean"]
        assert off_policy == (clipped > 0)
    assert beta == 0 or report["kl"] > 1e-3
