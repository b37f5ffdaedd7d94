import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from dqo.config.schema import Checkpoint, RewardModelling
from dqo.run.reward_modelling.data import Pair, Scored
from dqo.run.reward_modelling.trainer import pair_loss, train
from tests.helpers.classifiers import pair_tokenizer
from tests.helpers.reward_modelling import settings

CPU = torch.device("cpu")
NONE = Checkpoint(every=0, keep_last=1, keep_every=0, final=True, export_dtype="auto")


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1,
        pad_token_id=0, problem_type="regression",
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config)


def answer(*tokens: int) -> dict[str, list[int]]:
    return {"input_ids": [*tokens], "attention_mask": [1] * len(tokens)}


def test_the_loss_by_its_formula():
    chosen_B, rejected_B = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    plain = -(torch.tensor([1.0, -2.0]).sigmoid().log()).mean()
    assert pair_loss(chosen_B, rejected_B, center=0.0).item() == pytest.approx(plain.item())
    centred = plain + 0.1 * (1.0**2 + 2.0**2) / 2
    assert pair_loss(chosen_B, rejected_B, center=0.1).item() == pytest.approx(centred.item())


@pytest.mark.parametrize("kind", ["pairs", "scores"])
def test_what_is_better_gets_a_higher_reward_and_padding_does_not_count(kind, tmp_path):
    """A token is good, another is bad, beside tokens that say nothing."""
    good, bad = answer(5, 9), answer(6, 7, 8, 10)
    rows = (
        [Pair(prompt="", chosen=good, rejected=bad, lengths=(1, 1))] * 64
        if kind == "pairs"
        else [Scored(prompt="", answer=good, length=1, score=1.0), Scored(prompt="", answer=bad, length=1, score=-1.0)]
        * 32
    )
    trained, wanted = model(), RewardModelling(**settings(batch_size=8, epochs=4.0, learning_rate=1e-2))
    lines = train(
        trained, pair_tokenizer(), rows, settings=wanted, checkpoint=NONE, device=CPU, seed=0, folder=tmp_path
    )
    assert lines[-1]["loss"] < 0.1 * lines[0]["loss"]
    rewards = [trained(torch.tensor([text["input_ids"]])).logits.item() for text in (good, bad)]
    assert rewards[0] > 0.5 and rewards[1] < -0.5


class Stopping(list):
    """Rows of which a given number is read; then the process ends."""

    left = 10**9

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def trained_weights(rows, folder, *, every=0) -> torch.Tensor:
    trained = model()
    train(
        trained, pair_tokenizer(), rows, settings=RewardModelling(**settings(batch_size=2, epochs=2.0)),
        checkpoint=NONE.model_copy(update={"every": every}), device=CPU, seed=3, folder=folder,
    )  # fmt: skip
    return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])


def test_equal_seeds_train_equal_models_also_if_one_was_killed(tmp_path):
    rows = [
        Pair(prompt="", chosen=answer(n % 12 + 4), rejected=answer(n % 7 + 5, 5), lengths=(1, 2)) for n in range(12)
    ]
    whole = trained_weights(rows, tmp_path / "whole")
    assert not (tmp_path / "whole").exists() or not list((tmp_path / "whole").iterdir())
    killed = Stopping(rows)
    killed.left = 2 * 7 + 1  # in the eighth step of twelve, the second of the second epoch
    with pytest.raises(KeyboardInterrupt):
        trained_weights(killed, tmp_path / "killed", every=2)
    assert [each.name for each in (tmp_path / "killed").iterdir()] == ["checkpoint-6"]
    torn = tmp_path / "killed" / "checkpoint-8"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"half of")
    assert torch.equal(trained_weights(rows, tmp_path / "killed", every=2), whole)
    assert [each.name for each in (tmp_path / "killed").iterdir()] == ["checkpoint-12"]
